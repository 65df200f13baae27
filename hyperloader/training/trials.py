"""The trials of a search: kept in Optuna's journal, and what Optuna would try next."""

import dataclasses
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from hyperloader.training.presets import training_options
from hyperloader.training.run_folder import check_same
from hyperloader.training.search_space import SearchSpace, text_of

JOURNAL = "optuna.journal"
EARLIER_OPTIONS = ("head_base_width", "learning_rate")  # stated since their defaults depend on more than the method
_STUDY, _RECIPE = "search", "recipe"
_DRAWS = 50  # of Optuna, for a combination that has not been tried


@dataclass(frozen=True)
class Trial:
    """A training of a search that has ended.

    Args:
        values: of every key.
        name: of its folder.
        score: mean over tasks of the best weights' scores on validation; None if the training failed.
        reason: why it failed.
        best_step, steps: of the best weights, and of the training.
        seconds: of the training's steps, without evaluation.
        validation: what ``evaluate`` gives for the validation sets.
    """

    values: Mapping[str, Any]
    name: str
    score: float | None = None
    reason: str | None = None
    best_step: int | None = None
    steps: int | None = None
    seconds: float | None = None
    validation: Mapping | None = None


class Journal:
    """The trials that a folder's searches have ended, in Optuna's own file ``optuna.journal``.

    A trial is added when it has ended, by one line: a search that is killed leaves nothing half-done in it.

    Args:
        folder: that this process owns.
        recipe: what all trials have in common, and under ``over`` the keys in which they differ, as plain types.

    Raises:
        ValueError: the file is damaged, or of a search with another recipe.
    """

    def __init__(self, folder: Path, recipe: Mapping) -> None:
        self.path = folder / JOURNAL
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        for lock in folder.glob(f"{JOURNAL}.lock*"):  # of a killed process: nobody else writes here
            lock.unlink()
        if self.path.exists():
            self._cut_unfinished_line()
        try:
            storage = JournalStorage(JournalFileBackend(str(self.path)))
            self._study = optuna.create_study(
                storage=storage, study_name=_STUDY, direction="maximize", load_if_exists=True
            )
            self._trials = [Trial(**one.user_attrs) for one in self._study.trials]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path}: cannot be read ({error}); choose another output") from error
        before, now = self._study.user_attrs.get(_RECIPE), json.loads(json.dumps(recipe))
        if before is None:
            self._study.set_user_attr(_RECIPE, now)
        elif before["over"] != now["over"]:
            there, here = ", ".join(before["over"]), ", ".join(now["over"])
            raise ValueError(f"{folder}: holds a search over {there}, got {here}; choose another output")
        else:
            for key in EARLIER_OPTIONS:
                if key in now.get("training", {}) and key not in before["training"]:
                    before["training"][key] = _earlier(key, now)
            check_same(before, now, folder, "search")

    def trials(self) -> list[Trial]:
        """The trials, in the order in which they have ended."""
        return list(self._trials)

    def add(self, trial: Trial, space: SearchSpace) -> None:
        """Add one that has ended; it is on the disk when this returns."""
        self._study.add_trial(_frozen(trial, space, TrialState.FAIL))
        self._trials.append(trial)

    def _cut_unfinished_line(self) -> None:
        """Of a write that the machine has not survived."""
        with self.path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _earlier(key: str, recipe: Mapping) -> float:
    """The default of an option of ``EARLIER_OPTIONS`` when journals did not state it."""
    return 0.0 if key == "head_base_width" else training_options(recipe["preset"], "hyperloader").learning_rate


def next_values(space: SearchSpace, trials: Sequence[Trial], count: int) -> dict[str, Any] | None:
    """What to try next of ``space``, until ``count`` of its combinations have been: None then.

    All combinations one after the other if ``count`` is their number; else what Optuna's tree-structured Parzen
    estimator proposes. A function of the arguments alone, so that a search that was killed goes on as it would have.
    """
    tried = [trial for trial in trials if space.holds(trial.values)]
    if len(tried) >= count:
        return None
    names = {space.name(trial.values) for trial in tried}
    if count >= space.size:
        return next(values for values in space.combinations() if space.name(values) not in names)
    draws = random.Random(f"{space.config.seed} {len(tried)}")
    sampler = optuna.samplers.TPESampler(seed=draws.getrandbits(32))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    study.add_trials([_frozen(trial, space, TrialState.PRUNED) for trial in tried])  # pruned: the worst, to Optuna
    by_text = {key: {text_of(value): value for value in values} for key, values in space.over.items()}
    for _ in range(_DRAWS):
        params = study.ask(dict(_choices(space))).params
        values = {key: by_text[key][text] for key, text in params.items()}
        if space.name(values) not in names:
            return values
    while space.name(values) in names:
        values = {key: draws.choice(listed) for key, listed in space.over.items()}
    return values


def _choices(space: SearchSpace) -> dict[str, CategoricalDistribution]:
    return {key: CategoricalDistribution([text_of(value) for value in values]) for key, values in space.over.items()}


def _frozen(trial: Trial, space: SearchSpace, without_score: TrialState) -> FrozenTrial:
    """``trial`` for Optuna, which knows values by their texts; in the state ``without_score`` if it failed."""
    return optuna.trial.create_trial(
        state=without_score if trial.score is None else TrialState.COMPLETE,
        value=trial.score,
        params={key: text_of(value) for key, value in trial.values.items()},
        distributions=dict(_choices(space)),
        user_attrs=dataclasses.asdict(trial),
    )
