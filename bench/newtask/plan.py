"""What is trained on which examples, read from YAML."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from bench.study.plan import check_keys, recipe_of
from hyperloader.training.run_config import RunConfig
from hyperloader.validation import naming

METHODS = {
    "embedding": "64 numbers and a head",
    "head": "a head alone",
    "adapter": "fresh adapters and a head",
}


@dataclass(frozen=True)
class Base:
    """The model of the other tasks: updates, their learning rate, and the share of the training data."""

    fraction: float
    steps: int
    learning_rate: float


@dataclass(frozen=True)
class Search:
    """The runs that choose learning rates: examples to train on, and validation sentences to score on."""

    examples: int
    seed: int
    sentences: int


@dataclass(frozen=True)
class Learning:
    """One training on the new task; ``scored`` is the split, of which ``sentences`` are used or all."""

    name: str
    method: str
    examples: int
    seed: int
    rate: float
    scored: str = "test"
    sentences: int | None = None


@dataclass(frozen=True)
class FewExamples:
    """Models of some tasks, and short trainings on the others with a few examples each.

    Args:
        recipe: a run's YAML file: backbone, tasks and model. A section ``training`` of the plan's file is put on top of
            the recipe's.
        results: folder of the JSON files and figures.
        runs: folder of the runs themselves.
        base: how the models are trained.
        steps, batch_size: of every training on another task.
        examples, seeds: numbers of examples, and choices of them.
        search: how learning rates are chosen.
        learning_rates: what is trained -> the rates to try.
    """

    recipe: RunConfig
    results: Path
    runs: Path
    base: Base
    steps: int
    batch_size: int
    examples: list[int]
    seeds: list[int]
    search: Search
    learning_rates: Mapping[str, list[float]]

    example: ClassVar[str]  # of a file

    @classmethod
    def from_yaml(cls, path: str | Path) -> Any:
        """Read a plan; raises ``ValueError`` naming the file for an unknown or missing key, or a name that ``check``
        refuses."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; give a YAML file such as {cls.example}")
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        with naming(path):
            recipe = recipe_of("plan", path, values, cls)
            check_keys("base", values["base"], Base)
            check_keys("search", values["search"], Search)
            cls.check(recipe, values)
        folders = {name: Path(values[name]) for name in ("results", "runs")}
        base, search = Base(**values["base"]), Search(**values["search"])
        return cls(**{**values, **folders, "recipe": recipe, "base": base, "search": search})

    @staticmethod
    def check(recipe: RunConfig, values: Mapping) -> None:
        """Raise ``ValueError`` for an unknown name in ``values``, those of a plan with this ``recipe``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Plan(FewExamples):
    """One task, ``held_out``, learnt by a model of the others; learning rates are those of ``METHODS``."""

    held_out: str

    example = "recipes/new-task.yaml"

    @staticmethod
    def check(recipe: RunConfig, values: Mapping) -> None:
        if isinstance(recipe.tasks, str):
            raise ValueError(f"recipe must list its tasks itself, got the task file {recipe.tasks}")
        tasks = [task["name"] for task in recipe.tasks]
        if values["held_out"] not in tasks or len(tasks) < 2:
            raise ValueError(f"held_out must be one of several tasks {', '.join(tasks)}, got {values['held_out']}")
        if values["learning_rates"].keys() - METHODS:
            raise ValueError(f"learning_rates must be of {', '.join(METHODS)}, got {[*values['learning_rates']]}")

    @property
    def base_config(self) -> RunConfig:
        """The run of the other tasks; two validations."""
        base, every = self.base, max(1, self.base.steps // 2)
        training = {"steps": base.steps, "learning_rate": base.learning_rate, "eval_steps": every, "save_steps": every}
        return dataclasses.replace(
            self.recipe,
            tasks=[task for task in self.recipe.tasks if task["name"] != self.held_out],
            output=str(self.runs / "base"),
            fraction=base.fraction,
            training={**self.recipe.training, **training},
        )

    def searches(self) -> Iterator[Learning]:
        """The runs that choose learning rates."""
        search = self.search
        for method, rates in self.learning_rates.items():
            for rate in rates:
                name = f"search-{method}-{rate:g}"
                yield Learning(name, method, search.examples, search.seed, rate, "validation", search.sentences)

    def learnings(self, rates: Mapping[str, float]) -> Iterator[Learning]:
        """The runs that are compared, of the methods whose rate is chosen."""
        for examples in self.examples:
            for method in (method for method in self.learning_rates if method in rates):
                for seed in self.seeds:
                    yield Learning(f"{method}-{examples}-{seed}", method, examples, seed, rates[method])
