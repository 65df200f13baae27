"""A run on the Hugging Face Hub."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperloader.checkpoints import hub
from hyperloader.checkpoints.card import CardTask, model_card, on_hub
from hyperloader.config import MULTI_LABEL
from hyperloader.data.kinds import CHAT, COMPLETION, TEXT_TO_TEXT, Kind
from hyperloader.json_file import read_json
from hyperloader.training.backbone import PACKAGED
from hyperloader.training.headlines import headline
from hyperloader.training.run_folder import BEST, CONFIG, KINDS, LABELS, METRICS
from hyperloader.training.saved_run import Run, load_run
from hyperloader.training.task_words import FILE as DESCRIPTIONS
from hyperloader.training.word_rules import WORDS

RUN_FILES = (CONFIG, LABELS, KINDS, WORDS, DESCRIPTIONS, f"{BEST}/*")
_USAGE = """from hyperloader import Tagger

tagger = Tagger.from_pretrained({name!r})
print(tagger({example!r}, task={task!r}))"""
_EXAMPLES: dict[str, Any] = {
    TEXT_TO_TEXT: {"source": "a text of yours"},
    COMPLETION: {"prompt": "a prompt of yours"},
    CHAT: {"messages": [{"role": "user", "content": "a question of yours"}]},
}


def push_run(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    license: str | None = None,
) -> str:
    """Put what is needed to use the run in ``folder``, its metrics and a model card into the repository ``repo_id`` of
    the Hub; returns the address of the commit.

    Of its data nothing goes there but the labels, words for them, and the words by which texts are split (words.json);
    no path of this machine does.

    Raises:
        ValueError: a backbone in a folder, which nobody else has; what ``load_run`` and ``hub.push`` raise.
    """
    folder = Path(folder)
    run = load_run(folder)  # nothing damaged is published
    if not on_hub(run.config.backbone) and run.config.backbone not in PACKAGED:
        raise ValueError(
            f"{folder}: backbone must be a model of the Hub, {' or '.join(PACKAGED)} to be published, got "
            f"{run.config.backbone}, which others do not have"
        )
    paths = sorted({path for pattern in RUN_FILES for path in folder.glob(pattern) if path.is_file()})
    files: dict[str, Path | bytes] = {path.relative_to(folder).as_posix(): path for path in paths}
    files[CONFIG] = _published_config(run).encode()
    metrics = read_json(folder / METRICS, "the metrics of a run") if (folder / METRICS).is_file() else {}
    if metrics:
        files[METRICS] = json.dumps({key: value for key, value in metrics.items() if key != "config"}).encode()
    files[hub.CARD] = run_card(run, metrics.get("test"), repo_id, license)
    return hub.push(files, repo_id, (*RUN_FILES, METRICS), private, token)


def run_card(run: Run, test: Mapping | None, repo_id: str, license: str | None = None) -> bytes:
    """The model card of a run, with the scores of its ``test`` sets, if they were taken."""
    tasks = []
    for task in run.tasks:
        scores = None if test is None else test["tasks"].get(task)
        key = None if scores is None else headline(scores)
        score = None if scores is None or key is None else (key, float(scores[key]))
        tasks.append(CardTask(task, run.kinds.get(task, Kind()).name, run.labels[task], score))
    trained = sum(one.numel() for one in run.model.parameters() if one.requires_grad)
    count = f"{len(tasks):,} task{'s' if len(tasks) > 1 else ''}"
    about = (
        f"`{run.config.backbone}` with {trained:,} parameters trained for {count} by the method {run.config.method} of"
    )
    kind = run.kinds.get(run.tasks[0], Kind())
    example = _EXAMPLES.get(kind.name, {"text": "a text of yours"} | ({"text_pair": "another"} if kind.pair else {}))
    usage = _USAGE.format(name=repo_id, example=example, task=run.tasks[0])
    return model_card(repo_id, about, run.config.backbone, tasks, usage, license)


def _published_config(run: Run) -> str:
    """The run's config with the names and kinds of its tasks, and not where their data lie."""
    tasks = []
    for task in run.tasks:
        kind = run.kinds.get(task, Kind()).name
        own = {"kind": "classification", "multi_label": True} if kind == MULTI_LABEL else {"kind": kind}
        tasks.append({"name": task, "path": task, **own})
    return dataclasses.replace(run.config, tasks=tasks, output=".").to_yaml()
