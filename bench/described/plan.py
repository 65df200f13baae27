"""What is trained on which tasks and examples, read from YAML."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.newtask.plan import Base, Search
from bench.study.plan import check_keys
from hyperloader.training.run_config import RunConfig
from hyperloader.training.task_words import described
from hyperloader.validation import check_choice

METHODS = {  # what a task begins at
    "words": "its words",
    "random": "random words",
    "mean": "the mean embedding, a fresh head",
    "head": "the mean embedding, a head of its words",
    "lora": "fresh LoRA, a fresh head",
}
RATES = {"words": "embedding", "random": "embedding", "mean": "embedding", "lora": "lora"}  # trained; the rate of each


@dataclass(frozen=True)
class Learning:
    """One held-out ``task`` for the model of ``seed``, as ``method`` begins, with ``examples``; none: as it is."""

    method: str
    task: str
    examples: int
    seed: int
    rate: float = 0.0
    scored: str = "test"
    sentences: int = 0

    @property
    def name(self) -> str:
        """Of its file."""
        search = f"search-{self.rate:g}-" if self.scored == "validation" else ""
        return f"{search}{self.method}-{self.task.replace(' ', '-')}-{self.examples}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """All of it.

    Args:
        recipe: a run's YAML file of tasks in words.
        held_out: the tasks that the models do not see.
        results: folder of the JSON files.
        runs: folder of the runs themselves.
        base: how the models are trained, one a seed.
        steps, batch_size: of every training on a held-out task.
        examples, seeds: numbers of examples, and choices of them.
        sentences: of the test sets that are scored.
        search: how learning rates are chosen.
        learning_rates: of ``RATES`` -> the rates to try.
    """

    recipe: RunConfig
    held_out: list[str]
    results: Path
    runs: Path
    base: Base
    steps: int
    batch_size: int
    examples: list[int]
    seeds: list[int]
    sentences: int
    search: Search
    learning_rates: Mapping[str, list[float]]

    @classmethod
    def from_yaml(cls, path: str | Path) -> "Plan":
        """Read a plan; raises ``ValueError`` naming the file for an unknown or missing key or task."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; give a YAML file such as recipes/held-out-tasks.yaml")
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        try:
            check_keys("plan", values, cls)
            check_keys("base", values["base"], Base)
            check_keys("search", values["search"], Search)
            recipe = RunConfig.from_yaml(path.parent / values["recipe"])
            if isinstance(recipe.tasks, str) or not described(recipe):
                raise ValueError("recipe must list its tasks itself and have task_condition: description")
            for task in values["held_out"]:
                check_choice("held_out", task, [one["name"] for one in recipe.tasks])
            if values["learning_rates"].keys() != set(RATES.values()):
                raise ValueError(f"learning_rates must be of embedding and lora, got {[*values['learning_rates']]}")
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        folders = {name: Path(values[name]) for name in ("results", "runs")}
        base, search = Base(**values["base"]), Search(**values["search"])
        return cls(**{**values, **folders, "recipe": recipe, "base": base, "search": search})

    def base_config(self, seed: int) -> RunConfig:
        """The run of the other tasks; scored once, at its end."""
        steps = self.base.steps
        training = {"steps": steps, "learning_rate": self.base.learning_rate, "select": "last"}
        training |= {"eval_steps": steps, "save_steps": steps, "report_to": "none"}
        return dataclasses.replace(
            self.recipe,
            tasks=[task for task in self.recipe.tasks if task["name"] not in self.held_out],
            output=str(self.runs / f"base-{seed}"),
            fraction=self.base.fraction,
            seed=seed,
            training={**self.recipe.training, **training},
        )

    def searches(self) -> Iterator[Learning]:
        """The runs that choose learning rates: of the words' and of LoRA's."""
        search = self.search
        for method in ("words", "lora"):
            for rate in self.learning_rates[RATES[method]]:
                for task in self.held_out:
                    yield Learning(method, task, search.examples, search.seed, rate, "validation", search.sentences)

    def learnings(self, rates: Mapping[str, float]) -> Iterator[Learning]:
        """What is compared, where the rate is chosen."""
        for seed in self.seeds:
            for task in self.held_out:
                for method in METHODS:
                    if method != "lora":
                        yield Learning(method, task, 0, seed, sentences=self.sentences)
                    for examples in self.examples:
                        if RATES.get(method) in rates:
                            rate = rates[RATES[method]]
                            yield Learning(method, task, examples, seed, rate, sentences=self.sentences)
