"""A run on the Hugging Face Hub."""

import dataclasses
import json
from pathlib import Path

from hyperloader.checkpoints import hub, stored_model
from hyperloader.checkpoints.card import on_hub
from hyperloader.checkpoints.card_file import CARD, is_replaceable
from hyperloader.config import MULTI_LABEL
from hyperloader.data.kinds import Kind
from hyperloader.json_file import read_json
from hyperloader.training.backbone import HUB_NAMES, PACKAGED
from hyperloader.training.run_card import run_card
from hyperloader.training.run_folder import BEST, CONFIG, KINDS, LABELS, METRICS
from hyperloader.training.saved_run import Run, load_run
from hyperloader.training.task_words import FILE as DESCRIPTIONS
from hyperloader.training.word_rules import WORDS

_MODEL = f"{BEST}/{stored_model.DESCRIPTION}"
RUN_FILES = (CONFIG, LABELS, KINDS, WORDS, DESCRIPTIONS, f"{BEST}/*")


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

    The card is the folder's README.md, where that was edited, else a new one.

    Raises:
        ValueError: a backbone in a folder, which nobody else has; a ``license`` for a card that was edited; what
            ``load_run`` and ``hub.push`` raise.
    """
    hub.check_repo_id(repo_id)
    folder = Path(folder)
    card = folder / CARD
    if license is not None and not is_replaceable(card):
        raise ValueError(f"license must stand in {card}, which was edited and is published as it is, got {license!r}")
    run = load_run(folder)  # nothing damaged is published
    if not on_hub(run.config.backbone) and run.config.backbone not in PACKAGED:
        raise ValueError(
            f"{folder}: backbone must be a model of the Hub, {' or '.join(PACKAGED)} to be published, got "
            f"{run.config.backbone}, which others do not have"
        )
    found = {path for pattern in RUN_FILES for path in folder.glob(pattern) if path.is_file()}
    paths = sorted(path for path in found if path.name != CARD)
    files: dict[str, Path | bytes] = {path.relative_to(folder).as_posix(): path for path in paths}
    files[CONFIG] = _published_config(run).encode()
    if _MODEL in files:
        files[_MODEL] = stored_model.published(folder / _MODEL, HUB_NAMES.get(run.config.backbone, ""))
    metrics = read_json(folder / METRICS, "the metrics of a run") if (folder / METRICS).is_file() else {}
    if metrics:
        files[METRICS] = json.dumps({key: value for key, value in metrics.items() if key != "config"}).encode()
    files[CARD] = run_card(run, metrics, repo_id, license) if is_replaceable(card) else card
    return hub.push(files, repo_id, (*RUN_FILES, METRICS), private, token)


def _published_config(run: Run) -> str:
    """The run's config with the names and kinds of its tasks, and not where their data lie."""
    tasks = []
    for task in run.tasks:
        kind = run.kinds.get(task, Kind()).name
        own = {"kind": "classification", "multi_label": True} if kind == MULTI_LABEL else {"kind": kind}
        tasks.append({"name": task, "path": task, **own})
    return dataclasses.replace(run.config, tasks=tasks, output=".").to_yaml()
