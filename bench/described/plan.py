"""What is trained on which tasks and examples, read from YAML."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bench.newtask.plan import FewExamples
from hyperloader.training.run_config import RunConfig
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
class Plan(FewExamples):
    """The tasks ``held_out``, learnt by models of the others, one a seed, which read tasks in words.

    ``sentences`` of each test set are scored; learning rates are those of ``RATES``.
    """

    held_out: list[str]
    sentences: int

    example = "recipes/held-out-tasks.yaml"

    @staticmethod
    def check(recipe: RunConfig, values: Mapping) -> None:
        if isinstance(recipe.tasks, str) or not recipe.has_words:
            raise ValueError("recipe must list its tasks itself and have task_condition: description")
        for task in values["held_out"]:
            check_choice("held_out", task, [one["name"] for one in recipe.tasks])
        if values["learning_rates"].keys() != set(RATES.values()):
            raise ValueError(f"learning_rates must be of embedding and lora, got {[*values['learning_rates']]}")

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
