"""Settings that no tensor of a published checkpoint shows: from its training arguments, or assumed with a warning."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperloader.interop.published.settings import activation_of
from hyperloader.json_file import read_json
from hyperloader.validation import check_switch, shown

ARGUMENTS = "arguments_results.json"
_STEP = (
    "checkpoint-"  # a checkpoint of a step lies in a folder of this name, in that of the run, which has the arguments
)
_ACTIVATION, _NORMS, _LM_HEAD = "non_linearity", "unfreeze_layer_norms", "unfreeze_lm_head"
_ASSUMED: dict[str, Any] = {_ACTIVATION: "gelu_new", _NORMS: True, _LM_HEAD: False}  # as in all published runs


@dataclass(frozen=True)
class Arguments:
    """``activation`` of the adapters and ``train_norms``, as ``HyperLoaderConfig`` names them."""

    activation: str
    train_norms: bool


def arguments_of(file: Path, activation: str | None, train_norms: bool | None) -> Arguments:
    """The arguments of the checkpoint ``file``.

    They are those in ``arguments_results.json`` beside it or, for a folder ``checkpoint-...``, in the folder around;
    ``activation`` and ``train_norms`` are what the user knows, or None. Warns of what is assumed.

    Raises:
        ValueError, TypeError: a file that is none, a value that is unknown, or that the user contradicts.
    """
    path = _find(file)
    found = {} if path is None else _read(path)
    if activation is not None:
        activation = activation_of("activation", activation)
    if train_norms is not None:
        check_switch("train_norms", train_norms)
    for name, argument, given in ((_ACTIVATION, "activation", activation), (_NORMS, "train_norms", train_norms)):
        if given is not None and found.setdefault(name, given) != given:
            raise ValueError(f"{argument} must be {found[name]!r} as {path} says, got {given!r}; leave it out")
    missing = [f"{name}={value!r}" for name, value in _ASSUMED.items() if name not in found]
    if missing and (activation is None or train_norms is None):
        where = f"{path} does not tell all" if path else f"no {ARGUMENTS} beside {file}"
        warnings.warn(
            f"{where}: assumed {', '.join(missing)}; give activation= and train_norms= if it was trained otherwise",
            stacklevel=3,
        )
    values = _ASSUMED | found
    if values[_LM_HEAD]:
        warnings.warn(
            f"{path}: {_LM_HEAD} is true: T5's own head was trained too; its weights are read, and are frozen here",
            stacklevel=3,
        )
    return Arguments(values[_ACTIVATION], values[_NORMS])


def _find(file: Path) -> Path | None:
    folders = [file.parent]
    if file.resolve().parent.name.startswith(_STEP):
        folders.append(file.resolve().parent.parent)
    return next((folder / ARGUMENTS for folder in folders if (folder / ARGUMENTS).is_file()), None)


def _read(path: Path) -> dict[str, Any]:
    values = read_json(path)
    found = {name: values[name] for name in _ASSUMED if name in values}
    for name in (_NORMS, _LM_HEAD):
        if name in found and not isinstance(found[name], bool):
            raise ValueError(f"{path}: {name} must be true or false, got {shown(found[name])}")
    if _ACTIVATION in found:
        found[_ACTIVATION] = activation_of(f"{path}: {_ACTIVATION}", found[_ACTIVATION])
    return found
