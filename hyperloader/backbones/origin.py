"""The name and the dtypes of a backbone, and loading it again by them."""

import inspect
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hyperloader.backbones.compiled import plain_name
from hyperloader.nn.norms import output_dtype

_DTYPES = ("float64", "float32", "bfloat16", "float16")


def name_of(backbone: nn.Module) -> str:
    """What transformers loads the backbone by, a folder as an absolute path; "" if it has none."""
    name = str(getattr(backbone.config, "_name_or_path", None) or "")
    return str(Path(name).resolve()) if name and Path(name).is_dir() else name


def dtypes(backbone: nn.Module) -> tuple[str, dict[str, str]]:
    """The dtype of most parameters, and of those that have another one, by name; whole numbers, as quantised weights
    are stored, have none."""
    found = {}
    for path, module in backbone.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.is_floating_point():
                continue
            full = plain_linear_name(f"{path}.{name}" if path else name)
            found[full] = str(output_dtype(module) or parameter.dtype).removeprefix("torch.")
    ((most, _),) = Counter(found.values()).most_common(1)
    return most, {name: dtype for name, dtype in found.items() if dtype != most}


def load_config(kind: Any, name: str) -> Any:
    """The config of the pretrained backbone ``name``; raises ``ValueError`` for a name that leads nowhere."""
    try:
        return kind.config_class.from_pretrained(name)
    except OSError as error:
        raise _not_found(name, error) from error


def load(
    kind: Any, name: str, config: Any, dtype: str | None, others: Mapping[str, str], with_pooler: bool
) -> nn.Module:
    """The pretrained backbone ``name`` of class ``kind``, most of it in ``dtype`` and ``others`` in theirs.

    Raises:
        ValueError: an unknown dtype, a name that leads nowhere, or a checkpoint that lacks a part of the backbone.
    """
    for one in (dtype or _DTYPES[0], *others.values()):
        if one not in _DTYPES:
            raise ValueError(f"a backbone's dtype must be one of {', '.join(_DTYPES)}, got {one!r:.80}")
    options = {} if with_pooler else without_pooler(kind)
    if dtype is not None:
        options["dtype"] = getattr(torch, dtype)
    try:
        with quiet():  # it reports poolers and heads that are not wanted; what is missing is checked here
            backbone, report = kind.from_pretrained(name, config=config, output_loading_info=True, **options)
    except OSError as error:
        raise _not_found(name, error) from error
    check_complete(backbone, report["missing_keys"])
    if dtype is not None:
        for path, parameter in backbone.named_parameters():
            parameter.data = parameter.data.to(getattr(torch, others.get(path, dtype)))
    return backbone


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without progress bars and warnings."""
    from transformers.utils import logging

    bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def without_pooler(kind: Any) -> dict[str, bool]:
    """The argument that makes a ``kind`` of backbone without a pooler, if there is one."""
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind.__init__).parameters else {}


def check_complete(backbone: nn.Module, missing: Collection[str]) -> None:
    """Raise ``ValueError`` if transformers had to draw a part of ``backbone``, the names ``missing``, but a pooler."""
    drawn = sorted(name for name in missing if "pooler" not in name.split("."))
    if drawn:
        raise ValueError(
            f"the checkpoint lacks {len(drawn)} tensors of a {type(backbone).__name__}, such as {drawn[0]}, which "
            "would be random in every process: choose a checkpoint that has them"
        )


def _not_found(name: str, error: OSError) -> ValueError:
    reason = str(error).strip().partition("\n")[0]
    return ValueError(f"its backbone {name} cannot be loaded ({reason}); give backbone=")


def plain_linear_name(name: str) -> str:
    """A name in an attached or compiled backbone as it is in the plain one."""
    return re.sub(r"(\.linear)+(\.weight|\.bias)$", r"\2", plain_name(name))
