"""The card of a model, README.md: what it does, as metadata that the Hugging Face Hub reads and as text."""

import importlib.metadata
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn

from hyperloader.backbones import origin
from hyperloader.checkpoints.card_file import signed
from hyperloader.config import CLASSIFICATION, MULTI_LABEL, REGRESSION, TAGGING, HyperLoaderConfig

FOLDER = "path/to/this/folder"
PAPER = "[HyperLoader](https://arxiv.org/abs/2407.01411)"
_ON_HUB = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_PIPELINES = {
    TAGGING: "token-classification",
    **dict.fromkeys((CLASSIFICATION, MULTI_LABEL, REGRESSION), "text-classification"),
}
_WRITTEN = "text-generation"
_MOST_LABELS = 20  # that are shown of a task
_IN_TITLE = 3  # tasks
_MARKUP = re.compile(r"[\\|<&`*~\[\]]|(?<![^\W_])_|_(?![^\W_])")  # an underscore inside a word is none
_PACKAGES = ("hyperloader", "torch", "transformers")
_NONE: Mapping = MappingProxyType({})


class CardTask(NamedTuple):
    """A task as a card shows it; by split how many ``sentences`` were used, name and value of the headline score."""

    name: str
    kind: str
    labels: Sequence[str] = ()
    sentences: Mapping[str, int] = _NONE
    scores: Mapping[str, tuple[str, float]] = _NONE


def on_hub(backbone: str) -> bool:
    """Whether what a backbone is loaded by is a name on the Hub, as ``owner/name`` or ``gpt2``, and no folder."""
    return _ON_HUB.fullmatch(backbone) is not None and not Path(backbone).is_dir()


def backbone_text(name: str, kind: str) -> str:
    """A backbone in a card: ``name``, what it is loaded by, is told if it is on the Hub, else its class ``kind``."""
    return f"[`{name}`](https://huggingface.co/{name}), which has a licence of its own" if on_hub(name) else f"`{kind}`"


def model_card(
    about: str,
    backbone: str,
    tasks: Sequence[CardTask],
    usage: str,
    repo_id: str | None = None,
    license: str | None = None,
    versions: Mapping[str, Any] | None = None,
    tags: Sequence[str] = ("hypernetwork", "adapter", "lora"),
) -> bytes:
    """A README.md with the metadata that the Hub reads, as UTF-8.

    Args:
        about: a sentence or two: what the model is.
        backbone: what it is loaded by; only a name on the Hub is told.
        usage: Python that loads and asks the model.
        repo_id: ``owner/name`` on the Hub.
        license: of what is published, as the Hub names licences.
        versions: of the packages that it was made with; None for those that are installed.
        tags: for the Hub, beside the library's name.
    """
    from huggingface_hub import ModelCardData

    more = f" and {len(tasks) - _IN_TITLE:,} more" if len(tasks) > _IN_TITLE else ""
    title = repo_id or ", ".join(_escaped(task.name) for task in tasks[:_IN_TITLE]) + more
    data: Any = ModelCardData(
        model_name=repo_id.partition("/")[2] if repo_id else "hyperloader",
        library_name="hyperloader",
        license=license,
        base_model=backbone if on_hub(backbone) else None,
        pipeline_tag=_PIPELINES.get(tasks[0].kind, _WRITTEN),
        tags=["hyperloader", *tags],
        eval_results=_results(tasks) or None,
    )
    versions = _installed() if versions is None else versions
    return signed(
        [
            f"---\n{data.to_yaml()}\n---\n",
            f"# {title}\n",
            f"{about}\n",
            *_table(tasks),
            f"\n```python\n{usage}\n```\n",
            f"Made with {', '.join(f'{name} {versions[name]}' for name in _PACKAGES if versions.get(name))}.\n",
        ]
    )


def card_of_model(
    config: HyperLoaderConfig,
    backbone: nn.Module,
    about: str,
    repo_id: str | None = None,
    license: str | None = None,
    whole: bool = False,
) -> bytes:
    """The card of what ``save_pretrained`` writes, of a ``TaskModel`` if ``whole``; no scores are known."""
    name, kind = origin.name_of(backbone), type(backbone).__name__
    tasks = [CardTask(task, "text") for task in config.tasks]
    if config.labels is not None:
        tasks = [CardTask(task, config.kind_of(task), config.labels[task]) for task in config.tasks]
    loaded_by = "TaskModel" if whole else "HyperLoaderModel"
    end = ")" if whole or on_hub(name) else f", backbone)  # the {kind} that it was trained with"
    usage = f"from hyperloader import {loaded_by}\n\nmodel = {loaded_by}.from_pretrained({repo_id or FOLDER!r}{end}"
    text = f"{about.format(backbone=backbone_text(name, kind))} {PAPER}."
    return model_card(text, name, tasks, usage, repo_id, license)


def _installed() -> dict[str, str]:
    """The versions of the packages that a card names; of a copy that was not installed none is known."""
    found = {}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _results(tasks: Sequence[CardTask]) -> list[Any]:
    """The scores on the test sets, or on what there is, as the Hub reads them: it tells data sets apart by types."""
    from huggingface_hub import EvalResult

    found, types = [], set[str]()
    for task in tasks:
        kind = re.sub(r"[^\w.-]+", "-", task.name).strip("-") or "task"
        while kind in types:
            kind += "-2"
        types.add(kind)
        for split, (metric, value) in list(task.scores.items())[-1:]:
            if math.isfinite(value):
                pipeline = _PIPELINES.get(task.kind, _WRITTEN)
                found.append(EvalResult(pipeline, kind, task.name, metric, value, dataset_split=split))
    return found


def _table(tasks: Sequence[CardTask]) -> list[str]:
    counted = list(dict.fromkeys(split for task in tasks for split in task.sentences))
    scored = list(dict.fromkeys(split for task in tasks for split in task.scores))
    header = ["task", "kind", "labels", *(f"{one} sentences" for one in counted), *(f"{one} score" for one in scored)]
    rows = []
    for task in tasks:
        more = f" and {len(task.labels) - _MOST_LABELS:,} more" if len(task.labels) > _MOST_LABELS else ""
        row = [task.name, task.kind, ", ".join(task.labels[:_MOST_LABELS]) + more]
        row += [f"{task.sentences[split]:,}" if split in task.sentences else "" for split in counted]
        row += [f"{task.scores[one][0]} {task.scores[one][1]:.3f}" if one in task.scores else "" for one in scored]
        rows.append([_escaped(cell) for cell in row])
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def _escaped(text: str) -> str:
    """``text`` in one line of Markdown, where nothing of it is markup."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.splitlines()))
