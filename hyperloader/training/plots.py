"""The figures of a run: its learning curve, its scores by task, and heat maps of similarities.

matplotlib is imported when a figure is made, and draws without a display. Scores come as numbers from 0 to 1 and are
shown in per cent, as the literature does. The colours are of Okabe and Ito's set, which colour-blind readers can tell
apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hyperloader.checkpoints.atomic import writing_files
from hyperloader.training.headlines import mean_name, mean_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONGEST = 28  # characters of a label
_MOST_LABELS = 200  # labels of an axis
_TALLEST = 80.0  # inches
COLOURS = ("#0072B2", "#D55E00", "#009E73")
_BOX = "\N{WHITE SQUARE}"
MEAN_COLOUR = "#000000"


def learning_curve(
    curve: Sequence[Mapping[str, Any]], path: str | Path | None = None, *, title: str = "Learning curve"
) -> Figure:
    """Training loss above, mean validation F1 below, over the same axis of steps; the best step is marked.

    Args:
        curve: one ``{"step", "train_loss", "mean_f1"}`` (or ``mean_score``) per evaluation, in the order of the steps,
            as a run's ``metrics.json`` has it under ``learning_curve``. A loss that is None or not finite is left out.
        path: a PNG is written there if given.
        title: stands over the figure.

    Raises:
        ValueError: if the curve is empty.
        ImportError: without matplotlib.
    """
    if not curve:
        raise ValueError("curve must hold at least one evaluation, got none")
    from matplotlib.ticker import MaxNLocator

    figure = _figure(7.0, 5.2)
    upper, lower = figure.subplots(2, 1, sharex=True)
    figure.suptitle(title)
    losses = [(point["step"], point["train_loss"]) for point in curve if _is_number(point["train_loss"])]
    upper.plot(*_columns(losses), color=COLOURS[1], marker="s", markersize=4)
    upper.set_ylabel("training loss")
    scores = [(point["step"], 100 * mean_of(point)) for point in curve]
    lower.plot(*_columns(scores), color=COLOURS[0], marker="o", markersize=4)
    best_step, best = max(scores, key=lambda point: (point[1], -point[0]))
    lower.plot([best_step], [best], color=COLOURS[2], marker="*", markersize=14, linestyle="none")
    lower.annotate(
        f"best: {best:.1f} at step {best_step:,}",
        (best_step, best),
        xytext=(0, -12 if best > 20 else 12),
        textcoords="offset points",
        ha="right" if best_step > (scores[0][0] + scores[-1][0]) / 2 else "left",
        va="top" if best > 20 else "bottom",
    )
    lower.set_ylim(min(0, 1.05 * min(score for _, score in scores)), 105)
    lower.set_yticks(range(0, 101, 20))
    lower.set_ylabel(f"mean validation {mean_name(curve[0]).removeprefix('mean ')} (%)")
    lower.set_xlabel("training step")
    lower.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    return _finish(figure, path, upper, lower)


def per_task_bars(
    scores: Mapping[str, float],
    path: str | Path | None = None,
    *,
    title: str = "F1 by task",
    axis: str = "micro-F1 over spans (%)",
) -> Figure:
    """One bar a task with its number at the end; below them, with more than one task, their mean.

    Args:
        scores: task → its score, at most 1; at least one task.
        path: a PNG is written there if given.
        title: stands over the figure.
        axis: what the scores are.

    Raises:
        ValueError: if there are no scores.
        ImportError: without matplotlib.
    """
    if not scores:
        raise ValueError("scores must hold at least one task, got none")
    rows = [(task, 100 * score, COLOURS[0]) for task, score in scores.items()]
    if len(rows) > 1:
        rows.append(("mean", sum(value for _, value, _ in rows) / len(rows), MEAN_COLOUR))
    figure = _figure(7.0, min(1.5 + 0.4 * len(rows), _TALLEST))
    axes = figure.subplots()
    axes.set_title(title)
    places = range(len(rows))
    bars = axes.barh(places, [value for _, value, _ in rows], color=[colour for *_, colour in rows], height=0.65)
    if len(rows) <= _MOST_LABELS:
        axes.bar_label(bars, fmt="%.1f", padding=3)
    every = math.ceil(len(rows) / _MOST_LABELS)
    axes.set_yticks(places[::every], [drawable(name) for name, *_ in rows[::every]])
    axes.invert_yaxis()
    axes.set_xlim(min(0, *(1.08 * value for _, value, _ in rows)), 108)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel(axis)
    axes.set_ylabel("task")
    return _finish(figure, path, axes, grid="x")


def heat_maps(
    panels: Mapping[str, tuple[Sequence[str], Sequence[Sequence[float]]]],
    path: str | Path | None = None,
    *,
    title: str,
) -> Figure:
    """One square of cosine similarities a panel, from -1 to 1, four panels a row; grey is what is not a number.

    Args:
        panels: title of the panel → names of its rows and columns, and the matrix.
        path: a PNG is written there if given.
        title: stands over the figure.

    Raises:
        ValueError: if there are no panels.
        ImportError: without matplotlib.
    """
    if not panels:
        raise ValueError("panels must hold at least one matrix, got none")
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = _figure(3.2 * columns + 1.0, 3.2 * rows + 0.6)
    figure.suptitle(title)
    all_axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, (name, (labels, matrix)) in zip(all_axes, panels.items(), strict=False):
        axes.set_title(name, fontsize=10)
        axes.set_facecolor("#BBBBBB")
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        every = math.ceil(len(labels) / _MOST_LABELS)
        places, names = range(0, len(labels), every), [drawable(label) for label in labels[::every]]
        axes.set_xticks(places, names, rotation=90, fontsize=7)
        axes.set_yticks(places, names, fontsize=7)
        for (row, column), value in _numbers(matrix) if len(labels) <= 12 else ():
            colour = "white" if abs(value) > 0.6 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=5, color=colour)
    for axes in all_axes[len(panels) :]:
        axes.set_visible(False)
    figure.colorbar(image, ax=list(all_axes), shrink=0.6, label="cosine similarity")
    return _save(figure, path)


def search_points(
    panels: Mapping[str, tuple[Sequence[str], Sequence[tuple[int, float | None]]]],
    path: str | Path | None = None,
    *,
    title: str,
    axis: str,
) -> Figure:
    """The scores of a search's trials over the values of each key, three keys a row; a line joins the best of each
    value, a star is the first of the best, and a cross at the bottom a trial that failed.

    Args:
        panels: key → its values as they are shown, and of every trial the value's place among them and the score, as a
            share, None if it failed; the trials in one order for all keys.
        path: a PNG is written there if given.
        title: stands over the figure.
        axis: what the scores are.

    Raises:
        ValueError: if there are no panels, or no trials.
        ImportError: without matplotlib.
    """
    if not panels or not all(trials for _, trials in panels.values()):
        raise ValueError("panels must hold at least one key with a trial, got none")
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = _figure(3.6 * columns + 0.8, 3.2 * rows + 0.6)
    figure.suptitle(title)
    all_axes = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for axes, (key, (values, trials)) in zip(all_axes, panels.items(), strict=False):
        points = [(place, 100 * score) for place, score in trials if score is not None]
        best_of = {place: max(score for other, score in points if other == place) for place, _ in points}
        axes.plot(*_columns(sorted(best_of.items())), color=COLOURS[0], linewidth=1)
        axes.plot(*_columns(points), color=COLOURS[0], marker="o", markersize=5, linestyle="none", alpha=0.7)
        if points:
            best = max(points, key=lambda point: point[1])
            axes.plot(*_columns([best]), color=COLOURS[2], marker="*", markersize=14, linestyle="none")
        failed = sorted({place for place, score in trials if score is None})
        bottom = axes.get_xaxis_transform()  # places across, shares of the height upwards
        axes.plot(failed, [0.03] * len(failed), color=COLOURS[1], marker="x", linestyle="none", transform=bottom)
        axes.set_xticks(range(len(values)), [drawable(value) for value in values])
        axes.tick_params(axis="x", rotation=45 if sum(map(len, values)) > 32 else 0)
        axes.margins(x=0.15, y=0.12)
        axes.set_xlabel(drawable(key))
    for axes in all_axes[::columns]:
        axes.set_ylabel(axis)
    for axes in all_axes[len(panels) :]:
        axes.set_visible(False)
    return _finish(figure, path, *all_axes)


def drawable(name: str) -> str:
    """``name`` as the figures show it: of a long one start and end, of characters that no font here has a box."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST - 9]}…{name[-8:]}"
    fonts = [get_font(findfont(FontProperties(family=[family]))) for family in FontProperties().get_family()]
    shown = (one if any(ord(one) in font.get_charmap() for font in fonts) else _BOX for one in name)
    return "".join(shown).replace("$", r"\$")  # else it would be read as mathematics


def _numbers(matrix: Sequence[Sequence[float]]) -> list[tuple[tuple[int, int], float]]:
    cells = (((row, column), value) for row, values in enumerate(matrix) for column, value in enumerate(values))
    return [(place, value) for place, value in cells if _is_number(value)]


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _columns(points: Sequence[tuple]) -> tuple[list, list]:
    return [step for step, _ in points], [value for _, value in points]


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _finish(
    figure: Figure, path: str | Path | None, *all_axes: Axes, grid: Literal["both", "x", "y"] = "both"
) -> Figure:
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis=grid, color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
    return _save(figure, path)


def _save(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        with writing_files(Path(path)) as (file,):
            figure.savefig(file, format="png", dpi=150)
    return figure
