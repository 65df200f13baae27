"""The card of a model on the Hugging Face Hub: what it does, as metadata and as text."""

import importlib.metadata
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from hyperloader.config import CLASSIFICATION, MULTI_LABEL, REGRESSION, TAGGING, HyperLoaderConfig

_ON_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_PIPELINES = {
    TAGGING: "token-classification",
    **dict.fromkeys((CLASSIFICATION, MULTI_LABEL, REGRESSION), "text-classification"),
}
_WRITTEN = "text-generation"
_MOST_LABELS = 20  # that are shown of a task


class CardTask(NamedTuple):
    """A task as a card shows it; score: name and value of the headline score on its test set."""

    name: str
    kind: str
    labels: Sequence[str] = ()
    score: tuple[str, float] | None = None


def card_tasks(config: HyperLoaderConfig) -> list[CardTask]:
    """The tasks of a model."""
    if config.labels is None:
        return [CardTask(task, "text") for task in config.tasks]
    return [CardTask(task, config.kind_of(task), config.labels[task]) for task in config.tasks]


def on_hub(backbone: str) -> bool:
    """Whether what a backbone is loaded by is a name on the Hub, and no folder."""
    return _ON_HUB.fullmatch(backbone) is not None


def model_card(
    name: str, about: str, backbone: str, tasks: Sequence[CardTask], usage: str, license: str | None = None
) -> bytes:
    """A README.md with the metadata that the Hub reads, as UTF-8.

    Args:
        name: of the repository, ``owner/name``.
        about: a sentence or two: what the model is.
        backbone: what it is loaded by; only a name on the Hub is told.
        usage: Python that loads and asks the model.
        license: of what is published, as the Hub names licences.
    """
    from huggingface_hub import EvalResult, ModelCardData

    scored = [task for task in tasks if task.score is not None]
    data: Any = ModelCardData(
        model_name=name.partition("/")[2],
        library_name="hyperloader",
        license=license,
        base_model=backbone if on_hub(backbone) else None,
        pipeline_tag=_PIPELINES.get(tasks[0].kind, _WRITTEN),
        tags=["hyperloader", "hypernetwork", "adapter", "lora"],
        eval_results=[
            EvalResult(
                _PIPELINES.get(task.kind, _WRITTEN), _slug(task.name), task.name, *task.score, dataset_split="test"
            )
            for task in scored
            if task.score is not None
        ]
        or None,
    )
    header = ["task", "kind", "labels", *(["test score"] if scored else [])]
    rows = [_row(task, bool(scored)) for task in tasks]
    return "\n".join(
        [
            f"---\n{data.to_yaml()}\n---\n",
            f"# {name}\n",
            f"{about} [HyperLoader](https://arxiv.org/abs/2407.01411).\n",
            *(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)),
            f"\n```python\n{usage}\n```\n",
            f"Written by hyperloader {importlib.metadata.version('hyperloader')}.\n",
        ]
    ).encode()


def _row(task: CardTask, scored: bool) -> list[str]:
    more = f" and {len(task.labels) - _MOST_LABELS:,} more" if len(task.labels) > _MOST_LABELS else ""
    row = [task.name, task.kind, ", ".join(task.labels[:_MOST_LABELS]) + more]
    if scored:
        row.append("" if task.score is None else f"{task.score[0]} {task.score[1]:.3f}")
    return [cell.replace("|", "\\|").replace("\n", " ") for cell in row]


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-") or "task"
