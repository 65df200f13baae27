"""python -m bench.study.rates GRID.yaml [--jobs N] [--seconds S] [--report]

F1 over learning rate, in many situations: whether one default serves them all. Short runs, one per cell of the grid and
rate, scored on validation sentences. What is there is not trained again. The report goes into docs/results.md.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bench import command, document
from bench.study.hard import KEPT
from bench.study.made import parts_of, random_backbone
from bench.study.plan import Planned, check_keys
from bench.study.runs import run_all
from hyperloader.training.headlines import mean_of
from hyperloader.training.run_config import RunConfig

MARK = "rates"
_WIDTH = 384  # of MiniLM
_SENTENCES = 500  # of each task's validation set


@dataclass(frozen=True)
class Cell:
    """One situation: what differs from the recipe.

    Args:
        name: of the cell, in the table and in the names of files.
        method, model, training: of the run; the recipe's where they are not given.
        rates: to try; all of the grid's if there are none.
        fraction: of the training data.
        tasks: how many tasks: the first so many of the recipe's, or all of them cut in parts; 0 for the recipe's own.
        tasks_of: file of another recipe, whose tasks it has.
        hidden: width of a backbone of two layers with random weights; 0 for the recipe's backbone.
        hard: whether to train on the hard mixture (``bench.study.hard``).
    """

    name: str
    method: str = ""
    model: Mapping | None = None
    training: Mapping = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    fraction: float = 1.0
    tasks: int = 0
    tasks_of: str = ""
    hidden: int = 0
    hard: bool = False


@dataclass(frozen=True)
class Grid:
    """All cells, each trained for ``steps`` at every rate of ``rates``."""

    recipe: RunConfig
    results: Path
    runs: Path
    steps: int
    rates: list[float]
    cells: list[Cell]

    @classmethod
    def from_yaml(cls, path: Path, backbone: str | None = None) -> "Grid":
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        check_keys("grid", values, cls)
        for cell in values["cells"]:
            check_keys("cell", cell, Cell)
        recipe = RunConfig.from_yaml(path.parent / values["recipe"])
        return cls(
            recipe=recipe if backbone is None else dataclasses.replace(recipe, backbone=backbone),
            results=Path(values["results"]),
            runs=Path(values["runs"]),
            steps=values["steps"],
            rates=values["rates"],
            cells=[Cell(**cell) for cell in values["cells"]],
        )

    def default_rate(self, cell: Cell) -> float:
        """The learning rate of the cell where none is given."""
        return self._of(cell, cell.training).options.learning_rate

    def has_default_heads(self, cell: Cell) -> bool:
        """Whether the learning rate of heads is what it is by default."""
        bases = [self._of(cell, training).options.head_base_width for training in (cell.training, {})]
        given, default = (base / _WIDTH if base else 1.0 for base in bases)
        return given == default

    def _of(self, cell: Cell, training: Mapping) -> RunConfig:
        """The recipe with the cell's method and model and these training options."""
        recipe = self.recipe
        model = recipe.model if cell.model is None else cell.model
        return dataclasses.replace(recipe, method=cell.method or recipe.method, model=model, training=training)

    def planned(self, hard: Path) -> Iterator[tuple[str, Planned]]:
        """(name, run) of every cell and rate; ``hard`` is the folder of the hard mixture."""
        for cell in self.cells:
            for rate in cell.rates or self.rates:
                name = name_of(cell, rate)
                yield name, Planned(cell.name, rate, "validation", self._config(cell, rate, name, hard))

    def _config(self, cell: Cell, rate: float, name: str, hard: Path) -> RunConfig:
        recipe = self.recipe
        pace = {"steps": self.steps, "eval_steps": self.steps // 2, "save_steps": self.steps}
        changed: dict[str, Any] = {}
        if cell.hard:
            changed["tasks"] = [{"name": task, "path": str(hard / task)} for task in KEPT]
        if cell.tasks_of:
            changed["tasks"] = RunConfig.from_yaml(cell.tasks_of).tasks
        if cell.tasks:
            changed["tasks"] = parts_of(recipe, cell.tasks, self.runs / f"tasks-{cell.tasks}")
        if cell.hidden:
            folder = self.runs / f"hidden-{cell.hidden}"
            changed["backbone"] = str(random_backbone(recipe.backbone, cell.hidden, folder))
        return dataclasses.replace(
            self._of(cell, {**recipe.training, **pace, **cell.training, "learning_rate": rate}),
            fraction=cell.fraction,
            output=str(self.runs / name),
            **changed,
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.study.rates", description=__doc__)
    parser.add_argument("grid", type=Path, help="YAML file of a grid")
    parser.add_argument("--hard", type=Path, help="folder of the hard mixture, from python -m bench.study.hard")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--seconds", type=float, help="end what is under way after so long; the next call goes on")
    parser.add_argument("--backbone", metavar="FOLDER", help="where the recipe's backbone lies on this machine")
    parser.add_argument("--report", action="store_true", help="train nothing, only make table and chart")
    given = parser.parse_args()
    grid = Grid.from_yaml(given.grid, given.backbone)
    if given.report:
        document.put(document.RESULTS, MARK, table(grid))
        draw(grid)
        return
    until = None if given.seconds is None else time.monotonic() + given.seconds
    planned = dict(grid.planned(given.hard))
    if not run_all(planned, grid.results, given.jobs, until, sentences=_SENTENCES):
        print("time is up; call again to go on")


def name_of(cell: Cell, rate: float) -> str:
    """Of a run and its files."""
    return f"{cell.name}-{rate:g}".replace(" ", "-").replace("%", "percent")


def scores(grid: Grid, cell: Cell) -> dict[float, float]:
    """Learning rate -> mean score of the cell's runs that are there, in per cent."""
    found = {}
    for rate in grid.rates:
        path = grid.results / f"{name_of(cell, rate)}.json"
        if path.is_file():
            found[rate] = 100 * mean_of(json.loads(path.read_text(encoding="utf-8"))["validation"])
    return found


def table(grid: Grid) -> str:
    """A line a cell: F1 at every rate, and how far the default is behind the best."""
    lines = [
        f"| {grid.steps} steps | {' | '.join(f'{rate:g}' for rate in grid.rates)} | default behind the best |",
        f"|---|{'---:|' * (len(grid.rates) + 1)}",
    ]
    for cell in grid.cells:
        found, default = scores(grid, cell), grid.default_rate(cell)
        if not found:
            continue
        best = max(found.values())
        cells = [f"{found[rate]:.1f}" if rate in found else "" for rate in grid.rates]
        cells = [
            f"**{text}**" if text and rate == default else text for rate, text in zip(grid.rates, cells, strict=True)
        ]
        behind = f"{best - found[default]:.1f}" if default in found else ""
        lines.append(f"| {cell.name} | {' | '.join(cells)} | {behind} |")
    return "\n".join(lines)


def draw(grid: Grid) -> None:
    """F1 over learning rate on the hard mixture, a line a method with its default of ``head_base_width``; a ring around
    each one's default rate."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for cell in grid.cells:
        found = scores(grid, cell)
        if cell.hard and found and grid.has_default_heads(cell):
            (line,) = axes.plot(list(found), list(found.values()), marker="o", markersize=3, label=cell.name)
            default = grid.default_rate(cell)
            if default in found:
                axes.plot([default], [found[default]], "o", markersize=10, fillstyle="none", color=line.get_color())
    axes.set_xscale("log")
    axes.set_xlabel("learning rate (a ring: the default)")
    axes.set_ylabel("validation micro-F1 (%)")
    axes.set_title(f"Long sentences with few spans, four tasks, {grid.steps} steps")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(grid.results / "rates.png", dpi=140)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(command.run(main))
