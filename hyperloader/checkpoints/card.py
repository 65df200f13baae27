"""The card of a model on the Hugging Face Hub: what it does, as metadata and as text."""

import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hyperloader.config import CLASSIFICATION, MULTI_LABEL, REGRESSION, HyperLoaderConfig

_OF_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PIPELINES = {CLASSIFICATION: "text-classification", MULTI_LABEL: "text-classification", REGRESSION: "text-ranking"}
_MOST_LABELS = 20  # that are shown of a task
Score = tuple[str, float]  # its name and value, as "f1", 0.91


def model_card(
    name: str,
    backbone: str,
    config: HyperLoaderConfig,
    trained: int,
    usage: str,
    scores: Mapping[str, Score] | None = None,
    counts: Mapping[str, Mapping[str, int]] | None = None,
    license: str | None = None,
) -> str:
    """A README.md with the metadata that the Hub reads.

    Args:
        name: of the repository, ``owner/name``.
        backbone: what it is loaded by; a folder is not named.
        config: of the model.
        trained: how many parameters are trained.
        usage: Python that loads and asks it.
        scores: of every task, on its test set.
        counts: of every task, how many sentences its splits have.
        license: of what is published, as the Hub names licences.
    """
    from huggingface_hub import EvalResult, ModelCardData

    kinds = {task: _PIPELINES.get(config.kind_of(task), "token-classification") for task in config.tasks}
    pipelines = sorted(set(kinds.values())) if config.labels is not None else ["text-generation"]
    found = [
        EvalResult(kinds[task], _slug(task), task, metric, float(value), dataset_split="test")
        for task, (metric, value) in (scores or {}).items()
    ]
    on_hub = not backbone.startswith((".", "/", "~")) and _OF_HUB.fullmatch(backbone) and "/" in backbone
    data: Any = ModelCardData(
        model_name=name.partition("/")[2],
        library_name="hyperloader",
        license=license,
        base_model=backbone if on_hub else None,
        pipeline_tag=pipelines[0],
        tags=["hyperloader", "hypernetwork", "adapter", "lora"],
        eval_results=found or None,
    )
    splits = ["train", "validation", "test"] if counts else []
    header = ["task", "kind", "labels", *splits, *(["test score"] if scores else [])]
    rows = [_row(task, config, scores, counts) for task in config.tasks]
    lines = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    of = f"`{backbone}`" if on_hub else "its backbone (not in this repository)"
    return "\n".join(
        [
            f"---\n{data.to_yaml()}\n---\n",
            f"# {name}\n",
            f"One frozen transformer, {of}, and {trained:,} trained parameters for {len(config.tasks):,} tasks: a "
            "hypernetwork generates their adapters, LoRA updates and layer norms ([HyperLoader]"
            "(https://arxiv.org/abs/2407.01411)).\n",
            *lines,
            f"\n```python\n{usage}\n```\n",
            f"Written by hyperloader {importlib.metadata.version('hyperloader')}.\n",
        ]
    )


def _row(
    task: str,
    config: HyperLoaderConfig,
    scores: Mapping[str, Score] | None,
    counts: Mapping[str, Mapping[str, int]] | None,
) -> Sequence[str]:
    labels = list(config.labels[task]) if config.labels is not None else []
    more = f" and {len(labels) - _MOST_LABELS:,} more" if len(labels) > _MOST_LABELS else ""
    row = [task, config.kind_of(task), ", ".join(labels[:_MOST_LABELS]) + more]
    if counts:
        row += [f"{counts[task][split]:,}" for split in ("train", "validation", "test")]
    if scores:
        row.append(f"{scores[task][0]} {100 * scores[task][1]:.1f}")
    return [cell.replace("|", "\\|").replace("\n", " ") for cell in row]


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-") or "task"
