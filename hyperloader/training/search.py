"""Searches for the best values of a run: a training a combination, compared on validation."""

import gc
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hyperloader.checkpoints.atomic import write_text
from hyperloader.data.sentence import DataError
from hyperloader.data.tasks import Task
from hyperloader.processes import process_count
from hyperloader.training.finite import NonFiniteLossError
from hyperloader.training.headlines import mean_of
from hyperloader.training.requirements import check_model, check_requirements
from hyperloader.training.run import train
from hyperloader.training.run_folder import CONFIG, LOCK, own_folder, stated
from hyperloader.training.search_space import SearchSpace, Values
from hyperloader.training.trials import EARLIER_OPTIONS, JOURNAL, Journal, Trial, next_values
from hyperloader.validation import check_whole

REPORT = "search.json"
_DECIDING = {
    "method",
    "preset",
    "head",
    "model.base_weights",
    "model.task_condition",
}  # the defaults of EARLIER_OPTIONS


def search(
    space: SearchSpace,
    output: str | Path,
    trials: int | None = None,
    *,
    progress: bool = True,
    lines: bool = False,
    on_data: Callable[[Sequence[Task]], None] = lambda tasks: None,
    on_start: Callable[[str, int, int], None] = lambda name, number, count: None,
    on_end: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Train combinations of ``space``, each in a folder of its own; what has been trained there is not trained again.

    No test set is scored. A search that was ended, however, goes on where it stopped, to the same end. A training whose
    loss is not finite, that does not fit into the memory of its GPU, or whose values are refused when the data have
    been read, is a failed trial, and is not tried again in ``output``; where all are refused, which may be for the
    data, all will be.

    Args:
        space: of ``search_space``.
        output: gets a folder a trial, ``optuna.journal`` and ``search.json``; may hold a search of the same run over
            other values of the same keys.
        trials: how many combinations, those that ``output`` holds already included: Optuna's tree-structured Parzen
            estimator chooses them, drawn by the run's seed. If None or as many as there are, all of them.
        progress, lines: as in ``train``.
        on_data: called with the tasks of the first training.
        on_start: called with a trial's folder, its number from 1 on, and how many there will be.
        on_end: called with each trial.

    Returns:
        All trials in ``output`` and those that were refused, best first, the failed ones last.

    Raises:
        ValueError: ``output`` holds something else, or a search of another run or over other keys; several processes.
        RunFolderError: another process searches there.
        Others: what ``train`` raises.
    """
    if trials is not None:
        check_whole("trials", trials)
    if process_count() > 1:
        raise ValueError(f"a search must run in one process, got {process_count()}; start it without torchrun")
    output, count = Path(output).absolute(), min(trials or space.size, space.size)
    if output.exists() and not output.is_dir():
        raise ValueError(f"output must be a folder, got the file {output}")
    with own_folder(output) as folder:
        _check_free(output)
        _check_values(space)
        journal, first = Journal(output, _recipe(space)), True
        refused: list[Trial] = []  # before any was trained: of the data, maybe
        while (values := next_values(space, ended := [*journal.trials(), *refused], count)) is not None:
            number = 1 + sum(space.holds(trial.values) for trial in ended)
            on_start(space.name(values), number, count)
            told = on_data if first else lambda tasks: None
            scored = any(one.score is not None for one in ended)
            trial, by_values = _trained(space, values, output, told, scored, progress=progress, lines=lines)
            first = False
            folder.check()
            if by_values and not scored:
                refused.append(trial)
            else:
                for one in [*refused, trial] if trial.score is not None else [trial]:
                    journal.add(one, space)
                refused = refused if trial.score is None else []
                _report(space, journal.trials(), output / REPORT)
            on_end(trial)
        return _report(space, [*journal.trials(), *refused], output / REPORT)


def ranking(trials: Sequence[Trial]) -> list[Trial]:
    """The trials, best first, of equal ones the earlier, the failed ones last."""
    return sorted(trials, key=lambda trial: math.inf if trial.score is None else -trial.score)


def _check_free(output: Path) -> None:
    """Raise ``ValueError`` if ``output`` holds something, and no search."""
    if (output / JOURNAL).exists():
        return
    if (output / CONFIG).is_file():
        raise ValueError(f"{output}: holds a run, and a search needs a folder of its own; choose another output")
    for path in sorted(output.iterdir()):
        if path.name != LOCK:
            raise ValueError(f"{output}: holds {path.name}, and no search; choose another output")


def _check_values(space: SearchSpace) -> None:
    """Raise what would stop the training of a value, whatever its data are."""
    first = next(space.combinations())
    for key, values in space.over.items():
        for value in values if key == next(iter(space.over)) else values[1:]:
            config = space.run({**first, key: value}, Path(space.config.output))
            check_requirements(config)
            check_model(config)


def _recipe(space: SearchSpace) -> dict:
    """What all trials have in common, and the keys in which they differ."""
    recipe: dict[str, Any] = {**space.config.to_dict(), "over": sorted(space.over)}
    del recipe["output"]
    if not space.over.keys() & _DECIDING:  # else the options below are each trial's own
        training = stated(space.config).training
        said = {key: training[key] for key in EARLIER_OPTIONS if key in training}
        recipe["training"] = {**recipe["training"], **said}
    for key in space.over:
        section, dot, name = key.partition(".")
        (recipe[section] if dot else recipe).pop(name or key, None)
    return recipe


def _trained(
    space: SearchSpace,
    values: Values,
    output: Path,
    on_data: Callable[[Sequence[Task]], None],
    scored: bool,
    **show: bool,
) -> tuple[Trial, bool]:
    """The trial, and whether its values were refused; raises a fault of the data, and where no trial has been
    ``scored`` whatever is refused before they have been read."""
    name, read = space.name(values), list[Sequence[Task]]()

    def with_data(tasks: Sequence[Task]) -> None:
        read.append(tasks)
        on_data(tasks)

    try:
        metrics = train(space.run(values, output / name), resume=True, test=False, on_data=with_data, **show)
    except (NonFiniteLossError, torch.OutOfMemoryError, ValueError) as error:
        by_values = isinstance(error, ValueError)
        of_data = isinstance(error, DataError)
        if by_values and not read and (of_data or not scored):
            raise (DataError if of_data else ValueError)(f"{name}: {error}") from error
        return Trial(values, name, reason=" ".join(str(error).split())), by_values
    finally:
        if (wandb := sys.modules.get("wandb")) is not None and wandb.run is not None:
            wandb.finish()  # transformers goes on in the run that is open
        gc.collect()  # the model and its trainer hold one another
        torch.cuda.empty_cache()
    score, seconds = mean_of(metrics["validation"]), metrics["seconds_per_step"]
    if not math.isfinite(score):
        return Trial(values, name, reason=f"the score on validation must be finite, got {score}"), False
    found = Trial(
        values,
        name,
        score,
        best_step=metrics["best_step"],
        steps=metrics["steps"],
        seconds=None if seconds is None else seconds * metrics["steps"],
        validation=metrics["validation"],
    )
    return found, False


def _report(space: SearchSpace, trials: Sequence[Trial], path: Path) -> list[Trial]:
    """Write all trials, best first, and return them."""
    found = ranking(trials)
    best = found[0].name if found and found[0].score is not None else None
    report = {"best": best, "trials": [asdict(trial) for trial in found], "run": _recipe(space)}
    write_text(path, json.dumps(report, ensure_ascii=False, indent=1))
    return found
