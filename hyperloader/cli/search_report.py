"""What ``search`` prints and draws around its trainings."""

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperloader import signals
from hyperloader.cli.table import table
from hyperloader.cli.training_report import print_notes, shown
from hyperloader.training.headlines import mean_name

if TYPE_CHECKING:
    from hyperloader.training.search_space import SearchSpace
    from hyperloader.training.trials import Trial

FIGURE = "search.png"


def search_and_report(
    space: "SearchSpace", folder: Path, trials: int | None, options: Sequence[str], go_on: str
) -> None:
    """Search with a progress bar, print every trial and in the end all of them, and draw them.

    Args:
        options: of ``hyperloader train``, that train the run of ``space``.
        go_on: what a user who ends the search should know.

    Raises:
        KeyboardInterrupt: with ``go_on``.
        ValueError: every trial failed.
    """
    from hyperloader.training.search import search

    signals.hint(lambda: go_on)
    bar = sys.stderr.isatty()
    try:
        found = search(
            space,
            folder,
            trials,
            progress=bar,
            lines=not (bar and sys.stdout.isatty()),
            on_data=print_notes,
            on_start=lambda name, number, count: print(f"trial {number:,} of {count:,}: {name}", flush=True),
            on_end=lambda trial: print(f"  {_ended(trial)}", flush=True),
        )
    except KeyboardInterrupt as interrupt:
        raise type(interrupt)(go_on) from None
    print(f"\n{_table(found)}\n")
    folder, best = shown(folder), found[0]
    if best.score is None:
        raise ValueError(f"every trial in {folder} failed; {best.name}: {best.reason}")
    draw(found, folder / FIGURE)
    print(conclusion(best, folder, options))


def conclusion(best: "Trial", folder: Path, options: Sequence[str]) -> str:
    """Where everything lies, and how the best values get scores on the test sets."""
    trained = folder / best.name
    values = [word for key, value in best.values.items() for word in ("--set", f"{key}={_yaml(value)}")]
    train = ["hyperloader", "train", *options, *values, "--output", f"{folder}-best"]
    there = (trained / "metrics.json").is_file()  # else its folder has been removed since
    return "\n".join(
        (
            *([f"best     {trained}"] if there else []),
            *([f"tested   with: {shlex.join(['hyperloader', 'evaluate', str(trained)])}"] if there else []),
            f"trained  with: {shlex.join(train)}",
            f"trials   {folder / 'search.json'}",
            f"plot     {folder / FIGURE}",
        )
    )


def _ended(trial: "Trial") -> str:
    if trial.score is None or trial.validation is None:
        return f"failed: {trial.reason}"
    return f"{mean_name(trial.validation)} {100 * trial.score:.1f} % on validation, at step {trial.best_step:,}"


def _score_name(trials: Sequence["Trial"]) -> str:
    return next((mean_name(one.validation) for one in trials if one.validation is not None), "mean score")


def _table(trials: Sequence["Trial"]) -> str:
    """All trials, best first; of one that failed why, up to what to do about it."""
    from hyperloader.training.search_space import text_of

    failed = any(one.score is None for one in trials)
    keys = list(trials[0].values)
    header = [*keys, f"{_score_name(trials)} %", "best step", "seconds", *(["failed"] if failed else [])]
    rows: list[list] = []
    for one in trials:
        numbers = [math.nan if number is None else number for number in (one.best_step, one.seconds)]
        score = math.nan if one.score is None else 100 * one.score
        reason = [(one.reason or "").partition(";")[0]] if failed else []
        rows.append([*(text_of(one.values[key]) for key in keys), score, *numbers, *reason])
    return table(header, rows)


def _yaml(value: Any) -> str:
    """``value`` as YAML in one line."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def draw(trials: Sequence["Trial"], path: Path) -> None:
    """The scores over the values of every key, as a PNG file; numbers in their order."""
    from hyperloader.training.plots import search_points
    from hyperloader.training.search_space import text_of

    panels = {}
    for key in trials[0].values:
        values = {text_of(one.values[key]): one.values[key] for one in trials}
        numbers = all(isinstance(value, int | float) for value in values.values())
        names = sorted(values, key=values.__getitem__ if numbers else None)
        panels[key] = names, [(names.index(text_of(one.values[key])), one.score) for one in trials]
    search_points(panels, path, title="Search, scored on validation", axis=f"{_score_name(trials)} on validation (%)")
