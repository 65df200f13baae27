"""The study's plan, read from YAML: which runs there are, in which order."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from hyperloader.training.presets import check_key
from hyperloader.training.run_config import RunConfig


@dataclass(frozen=True)
class Search:
    """Short runs, one per method and learning rate, scored on validation: they choose the learning rates.

    learning_rates: method -> the rates to try.
    """

    fraction: float
    steps: int
    seed: int
    learning_rates: Mapping[str, list[float]]


@dataclass(frozen=True)
class Stage:
    """Runs of ``methods`` with every seed; ``steps`` updates on ``fraction`` of the training data.

    ``training`` holds options that differ from the recipe's.
    """

    name: str
    title: str
    fraction: float
    steps: int
    seeds: list[int]
    methods: list[str]
    training: Mapping = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A whole study.

    Args:
        recipe: a run's YAML file; every run of the study is this one with another method, data, seed and rate.
        results: folder of the JSON files and figures.
        runs: folder of the runs themselves, with their checkpoints.
        models: method -> its ``model`` section, where it differs from the recipe's.
        search: how learning rates are chosen.
        stages: what is then trained and compared.
    """

    recipe: RunConfig
    results: Path
    runs: Path
    models: Mapping[str, Mapping]
    search: Search
    stages: list[Stage]

    @classmethod
    def from_yaml(cls, path: str | Path) -> "Plan":
        """Read a plan; raises ``ValueError`` naming the file for an unknown or missing key."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; give the YAML file of a study")
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        try:
            check_keys("study", values, cls)
            check_keys("search", values["search"], Search)
            for stage in values["stages"]:
                check_keys("stage", stage, Stage)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return cls(
            recipe=RunConfig.from_yaml(path.parent / values["recipe"]),
            results=Path(values["results"]),
            runs=Path(values["runs"]),
            models=values["models"],
            search=Search(**values["search"]),
            stages=[Stage(**stage) for stage in values["stages"]],
        )

    def config(
        self, method: str, *, fraction: float, steps: int, seed: int, rate: float, folder: str, **options: object
    ) -> RunConfig:
        """The run of ``method`` with these numbers and training ``options``; four validations, the last at the end."""
        model = self.models.get(method, self.recipe.model)
        every = max(1, steps // 4)
        training = {**self.recipe.training, "steps": steps, "learning_rate": rate, "eval_steps": every, **options}
        return dataclasses.replace(
            self.recipe,
            method=method,
            model=model,
            fraction=fraction,
            seed=seed,
            data_seed=seed,
            training=training | {"save_steps": every},
            output=str(self.runs / folder),
        )

    def searches(self) -> Iterator[tuple[str, str, float, RunConfig]]:
        """(name, method, rate, run) of every run of the search."""
        search = self.search
        for method, rates in search.learning_rates.items():
            for rate in rates:
                name = f"search-{method}-{rate:g}"
                sizes = {"fraction": search.fraction, "steps": search.steps, "seed": search.seed}
                yield name, method, rate, self.config(method, **sizes, rate=rate, folder=name)


def check_keys(what: str, values, kind: type) -> None:
    """Raise ``ValueError`` unless the keys of ``values`` are exactly the fields of the dataclass ``kind``."""
    known = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(values, Mapping):
        raise ValueError(f"{what} must be a mapping, got {values!r}")
    for key in values:
        check_key(f"{what} key", key, known)
    for field in dataclasses.fields(kind):
        if field.name not in values and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{what} must have the key {field.name}")
