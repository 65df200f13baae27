"""The model card of a run."""

from collections.abc import Mapping
from typing import Any

from hyperloader.checkpoints.card import FOLDER, PAPER, CardTask, backbone_text, model_card
from hyperloader.data.kinds import CHAT, COMPLETION, TEXT_TO_TEXT, Kind
from hyperloader.model.counting import parameter_counts
from hyperloader.training.backbone import HUB_NAMES
from hyperloader.training.headlines import headline
from hyperloader.training.saved_run import Run

_SPLITS = ("validation", "test")
_USAGE = """from hyperloader import Tagger

tagger = Tagger.from_pretrained({name!r})
print(tagger({example!r}, task={task!r}))"""
_METHODS = {  # tags for the Hub, and what is trained
    "hyperloader": (("hypernetwork", "adapter", "lora"), f"weights that a hypernetwork generates, as in {PAPER}"),
    "hyperformer++": (
        ("hypernetwork", "adapter"),
        f"adapters that a hypernetwork generates, a method that {PAPER} extends",
    ),
    "adapter": (("adapter",), "adapters of each task's own"),
    "lora": (("lora",), "one LoRA for all tasks"),
    "full": ((), "all weights, for all tasks"),
}
_EXAMPLES: dict[str, Any] = {
    TEXT_TO_TEXT: {"source": "a text of yours"},
    COMPLETION: {"prompt": "a prompt of yours"},
    CHAT: {"messages": [{"role": "user", "content": "a question of yours"}]},
}


def run_card(run: Run, metrics: Mapping, repo_id: str | None = None, license: str | None = None) -> bytes:
    """The model card of a run.

    Args:
        metrics: what its ``metrics.json`` holds; of an earlier version, or of none, less is told.
        repo_id, license: as in ``model_card``.
    """
    tasks = []
    for task in run.tasks:
        scores = {}
        for split in _SPLITS:
            found = (metrics.get(split) or {"tasks": {}})["tasks"].get(task)
            if found is not None:
                scores[split] = (headline(found), float(found[headline(found)]))
        sentences = metrics.get("sentences", {}).get(task, {})
        tasks.append(CardTask(task, run.kinds.get(task, Kind()).name, run.labels[task], sentences, scores))
    trained, total = parameter_counts(run.model)
    tags, trains = _METHODS[run.config.method]
    name = HUB_NAMES.get(run.config.backbone, run.config.backbone)
    about = (
        f"{backbone_text(name, _backbone_class(run.model))} with {trained:,} parameters trained, of {total:,} in all, "
        f"for {len(tasks):,} "
        f"task{'s' if len(tasks) > 1 else ''}: {trains}."
    )
    kind = run.kinds.get(run.tasks[0], Kind())
    example = _EXAMPLES.get(kind.name, {"text": "a text of yours"} | ({"text_pair": "another"} if kind.pair else {}))
    usage = _USAGE.format(name=repo_id or FOLDER, example=example, task=run.tasks[0])
    return model_card(about, name, tasks, usage, repo_id, license, metrics.get("versions"), tags)


def _backbone_class(model: Any) -> str:
    backbone = model.backbone
    return type(backbone.get_base_model() if hasattr(backbone, "get_base_model") else backbone).__name__  # PEFT's
