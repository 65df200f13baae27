"""The study's plan, read from YAML: which runs there are, in which order."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hyperloader.training.run_config import RunConfig
from hyperloader.validation import check_choice, check_key, naming

SPLITS = ("validation", "test")
_TRIED = Path("runs/tried")


@dataclass(frozen=True)
class Row:
    """A row of the tables: what differs from the recipe.

    Args:
        method: of the run; the row's name where it is not given.
        model: the run's ``model`` section; the recipe's where it is not given.
        training: training options on top of the recipe's and the stage's.
        rate_of: the row whose learning rate this one takes, where it has no search of its own.
    """

    method: str = ""
    model: Mapping | None = None
    training: Mapping = field(default_factory=dict)
    rate_of: str = ""


@dataclass(frozen=True)
class Search:
    """Short runs, one per row and learning rate, scored on validation: they choose the learning rates.

    learning_rates: row -> the rates to try.
    """

    fraction: float
    steps: int
    seed: int
    learning_rates: Mapping[str, list[float]]


@dataclass(frozen=True)
class Stage:
    """Runs of ``rows`` with every seed; ``steps`` updates on ``fraction`` of the training data.

    ``training`` holds options that differ from the recipe's; ``split`` is what the runs are scored on, and ablations
    see validation alone.
    """

    name: str
    title: str
    fraction: float
    steps: int
    seeds: list[int]
    rows: list[str]
    training: Mapping = field(default_factory=dict)
    split: str = "test"


@dataclass(frozen=True)
class Planned:
    """One run of the study, and the split that its score is read from."""

    row: str
    rate: float
    split: str
    config: RunConfig


@dataclass(frozen=True)
class Plan:
    """A whole study.

    Args:
        recipe: a run's YAML file; every run of the study is this one with another method, data, seed and rate. A
            section ``training`` of the plan's file is put on top of the recipe's.
        results: folder of the JSON files and figures.
        runs: folder of the runs themselves, with their checkpoints.
        rows: name -> ``Row``, in the order of the tables.
        search: how learning rates are chosen.
        stages: what is then trained and compared.
    """

    recipe: RunConfig
    results: Path
    runs: Path
    rows: Mapping[str, Row]
    search: Search
    stages: list[Stage]

    @classmethod
    def from_yaml(cls, path: str | Path, backbone: str | None = None) -> "Plan":
        """Read a plan, with another folder for the recipe's ``backbone`` if given.

        Raises ``ValueError`` naming the file for an unknown or missing key or an unknown row.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; give the YAML file of a study")
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        with naming(path):
            recipe = recipe_of("study", path, values, cls)
            check_keys("search", values["search"], Search)
            for row in values["rows"].values():
                check_keys("row", row, Row)
            for stage in values["stages"]:
                check_keys("stage", stage, Stage)
            plan = cls(
                recipe=recipe if backbone is None else dataclasses.replace(recipe, backbone=backbone),
                results=Path(values["results"]),
                runs=Path(values["runs"]),
                rows={name: Row(**row) for name, row in values["rows"].items()},
                search=Search(**values["search"]),
                stages=[Stage(**stage) for stage in values["stages"]],
            )
            plan._check()
        return plan

    def tried(self, steps: int) -> "Plan":
        """The same runs with ``steps`` steps each, and folders of their own."""
        return dataclasses.replace(
            self,
            results=_TRIED / "results",
            runs=_TRIED / "runs",
            search=dataclasses.replace(self.search, steps=steps),
            stages=[dataclasses.replace(stage, steps=steps) for stage in self.stages],
        )

    def _check(self) -> None:
        for name in self.search.learning_rates:
            check_choice("search row", name, self.rows)
        for name, row in self.rows.items():
            check_choice(f"rate_of {name}", row.rate_of or name, self.search.learning_rates)
        for stage in self.stages:
            check_choice("split", stage.split, SPLITS)
            for name in stage.rows:
                check_choice(f"row of stage {stage.name}", name, self.rows)

    def config(self, row: str, *, folder: str, fraction: float, steps: int, seed: int, **options: Any) -> RunConfig:
        """The run of ``row`` with these numbers and training ``options``; ten validations, the last at the end."""
        given, every = self.rows[row], max(1, steps // 10)
        pace = {"steps": steps, "eval_steps": every, "save_steps": every}
        return dataclasses.replace(
            self.recipe,
            method=given.method or row,
            model=self.recipe.model if given.model is None else given.model,
            fraction=fraction,
            seed=seed,
            data_seed=seed,
            training={**self.recipe.training, **pace, **options, **given.training},
            output=str(self.runs / folder),
        )

    def searches(self) -> Iterator[tuple[str, Planned]]:
        """(name, run) of every run of the search."""
        search = self.search
        sizes = {"fraction": search.fraction, "steps": search.steps, "seed": search.seed}
        for row, rates in search.learning_rates.items():
            for rate in rates:
                name = f"search-{row}-{rate:g}"
                yield name, Planned(row, rate, "validation", self.config(row, folder=name, learning_rate=rate, **sizes))

    def trainings(self, rates: Mapping[str, float]) -> Iterator[tuple[str, Planned]]:
        """(name, run) of every run of the stages whose learning rate is among the chosen ``rates``."""
        for stage in self.stages:
            for seed in stage.seeds:
                for row in stage.rows:
                    rate = rates.get(self.rows[row].rate_of or row)
                    if rate is not None:
                        name = f"{stage.name}-{row}-{seed}"
                        options = {"learning_rate": rate, **stage.training}
                        sizes = {"fraction": stage.fraction, "steps": stage.steps, "seed": seed}
                        yield name, Planned(row, rate, stage.split, self.config(row, folder=name, **sizes, **options))


def recipe_of(what: str, path: Path, values: Any, kind: type) -> RunConfig:
    """The run that ``values``, those of a plan's file ``path``, name as their ``recipe``, with the options of their
    section ``training``, if there is one: that is taken out. What is left is checked as by ``check_keys``."""
    options = values.pop("training", {}) if isinstance(values, dict) else {}
    if not isinstance(options, Mapping):
        raise ValueError(f"training must be a section of options, got {options!r}")
    check_keys(what, values, kind)
    recipe = RunConfig.from_yaml(path.parent / values["recipe"])
    return dataclasses.replace(recipe, training={**recipe.training, **options})


def check_keys(what: str, values: Any, kind: type) -> None:
    """Raise ``ValueError`` unless the keys of ``values`` are exactly the fields of the dataclass ``kind``."""
    known = [one.name for one in dataclasses.fields(kind)]
    if not isinstance(values, Mapping):
        raise ValueError(f"{what} must be a mapping, got {values!r}")
    for key in values:
        check_key(f"{what} key", key, known)
    for one in dataclasses.fields(kind):
        optional = one.default_factory is not dataclasses.MISSING or one.default is not dataclasses.MISSING
        if one.name not in values and not optional:
            raise ValueError(f"{what} must have the key {one.name}")
