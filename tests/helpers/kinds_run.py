"""A run of every kind of task on a small random BERT, for tests that train one."""

import json
from pathlib import Path

from helpers import small_run

KINDS = {"intents": "classification", "topics": "multi-label", "length": "regression", "pairs": "classification"}


def write(folder: Path) -> dict:
    """Write data and backbone to ``folder``; returns what a run's YAML file in it holds, but for ``output``.

    ``music`` is tagging; the others are made of the sentences of both of the grammars' tasks: ``intents`` says which
    task, ``topics`` that and whether it is long, ``length`` is a number of a text, ``pairs`` says whether two texts are
    of one task.
    """
    values = small_run.write(folder)
    for split in ("train", "validation", "test"):
        texts = [(task, text) for task in small_run.TASKS for text in _texts(folder / "data" / task / f"{split}.jsonl")]
        rows: dict[str, list[dict]] = {task: [] for task in KINDS}
        for number, (task, text) in enumerate(texts):
            words = len(text.split())
            other, second = texts[(7 * number + 3) % len(texts)]
            topics = [task] * (task == "music") + ["long"] * (words > 6)
            rows["intents"].append({"text": text, "label": task, "id": number})
            rows["topics"].append({"text": text, "label": topics})
            rows["length"].append({"text": text, "label": 100 + 5 * words})
            rows["pairs"].append({"text": text, "text_pair": second, "label": "same" if task == other else "other"})
        for task, some in rows.items():
            (folder / "data" / task).mkdir(exist_ok=True)
            lines = "".join(json.dumps(row) + "\n" for row in some)
            (folder / "data" / task / f"{split}.jsonl").write_text(lines)
    values["tasks"] = [
        {"name": "music", "path": "data/music"},
        {"name": "intents", "kind": "classification", "path": "data/intents"},
        {"name": "topics", "kind": "classification", "multi_label": True, "path": "data/topics"},
        {"name": "length", "kind": "regression", "path": "data/length"},
        {"name": "pairs", "kind": "classification", "path": "data/pairs"},
    ]
    return values


def _texts(path: Path) -> list[str]:
    return [" ".join(json.loads(line)["tokens"]) for line in path.read_text().splitlines()]
