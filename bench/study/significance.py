"""Is one run better than another? A paired bootstrap over the sentences of the test sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hyperloader.training.metrics import Counts

_AT_A_TIME = 500  # resamples, which bounds the memory


@dataclass(frozen=True)
class Difference:
    """Mean F1 of one method minus that of another, in points of F1 between -1 and 1.

    mean: of the test sets as they are; low, high: the middle 95 % of the resampled test sets; below: the share of them
    in which the difference is below zero.
    """

    mean: float
    low: float
    high: float
    below: float


def compare(ours: Sequence[Counts], theirs: Sequence[Counts], resamples: int = 10_000, seed: int = 0) -> Difference:
    """How far the first method is ahead of the second, each given by the counts of its runs, one a seed.

    A method's score is the mean over its runs of the mean over the tasks of micro-F1. For each resample as many
    sentences as a task has are drawn from it with replacement, task by task, the same ones for all runs of both.

    Raises:
        ValueError: a method without runs; runs of other tasks, or of other sentences.
    """
    return compare_all({"ours": ours, "theirs": theirs}, "ours", resamples, seed)["theirs"]


def compare_all(
    methods: Mapping[str, Sequence[Counts]], ours: str, resamples: int = 10_000, seed: int = 0
) -> dict[str, Difference]:
    """``compare`` of the method ``ours`` with each other one, on the same resamples."""
    for name, runs in methods.items():
        if not runs:
            raise ValueError(f"every method must have at least one run, got none of {name}")
    runs = [run for of_method in methods.values() for run in of_method]
    _check_same(runs)
    draw = np.random.default_rng(seed)
    exact, resampled = np.zeros(len(runs)), np.zeros((resamples, len(runs)))
    for task in runs[0]:
        counts = np.concatenate([run[task] for run in runs], axis=1, dtype=np.float64)  # (sentences, 3 a run)
        exact += _f1(counts.sum(0)) / len(runs[0])
        # Sentences with the same counts are alike: how often each kind is drawn is a multinomial number.
        kinds, times = np.unique(counts, axis=0, return_counts=True)
        for first in range(0, resamples, _AT_A_TIME):
            part = resampled[first : first + _AT_A_TIME]
            drawn = draw.multinomial(len(counts), times / len(counts), size=len(part))  # (resamples, kinds)
            part += _f1(drawn.astype(np.float64) @ kinds) / len(runs[0])
    places = np.cumsum([0, *(len(of_method) for of_method in methods.values())])
    columns = {name: slice(*places[number : number + 2]) for number, name in enumerate(methods)}
    mean, means = exact[columns[ours]].mean(), resampled[:, columns[ours]].mean(1)
    found = {}
    for name in methods:
        if name != ours:
            ahead = means - resampled[:, columns[name]].mean(1)
            low, high = np.quantile(ahead, [0.025, 0.975])
            difference = mean - exact[columns[name]].mean()
            found[name] = Difference(float(difference), float(low), float(high), float((ahead < 0).mean()))
    return found


def mean_f1(counts: Counts) -> float:
    """The unweighted mean over tasks of micro-F1, as in a run's metrics."""
    return float(np.mean([_f1(of_task.sum(0))[0] for of_task in counts.values()]))


def _f1(sums: np.ndarray) -> np.ndarray:
    """Micro-F1 (..., runs) of the counts (..., 3 a run); 0 where there is no span on either side."""
    right, predicted, there = (sums[..., part::3] for part in range(3))
    return 2 * right / np.maximum(predicted + there, 1)


def _check_same(runs: Sequence[Counts]) -> None:
    for run in runs[1:]:
        if list(run) != list(runs[0]):
            raise ValueError(f"all runs must have the tasks {', '.join(runs[0])}, got {', '.join(run)}")
        for task, counts in run.items():
            if not np.array_equal(counts[:, 2], runs[0][task][:, 2]):
                raise ValueError(f"all runs must be scored on the same sentences of {task}, got others")
