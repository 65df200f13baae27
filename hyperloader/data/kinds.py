"""What a task asks of its head, beside its labels."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hyperloader.config import CLASSIFICATION, KINDS, REGRESSION, TAGGING
from hyperloader.validation import check_choice

TEXT_TO_TEXT, COMPLETION, CHAT = WRITTEN = ("text-to-text", "completion", "chat")  # whose answer a text model writes
TASK_KINDS = (TAGGING, CLASSIFICATION, REGRESSION, *WRITTEN)  # as a task file names them; also multi_label: true
VALUE = "value"  # the one label of a regression


@dataclass(frozen=True)
class Kind:
    """One task's kind.

    name: one of ``hyperloader.config.KINDS`` or ``WRITTEN``. pair: whether a sentence of a task of whole sentences is a
    pair of texts. mean, deviation: of a regression's training labels, by which it is standardised.
    """

    name: str = TAGGING
    pair: bool = False
    mean: float = 0.0
    deviation: float = 1.0

    def __post_init__(self) -> None:
        check_choice("kind", self.name, (*KINDS, *WRITTEN))

    @property
    def of_sentences(self) -> bool:
        """Whether the task is one of whole sentences, not of their words."""
        return self.name != TAGGING

    @property
    def written(self) -> bool:
        """Whether the answer is any text, which a text model writes."""
        return self.name in WRITTEN

    def standardised(self, labels: Iterable) -> "Kind":
        """The same with mean and deviation of ``labels``, if it is a regression.

        Raises:
            ValueError: the labels are all the same, or so far apart that their deviation is beyond all numbers.
        """
        if self.name != REGRESSION:
            return self
        values = list(labels)
        try:
            mean = math.fsum(values) / len(values)
            deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
        except OverflowError:
            raise ValueError(f"labels must have a finite deviation, got some as large as {max(values):g}") from None
        if not deviation:
            raise ValueError(
                f"labels must differ for a regression to learn from, got {values[0]:g} in every line of train"
            )
        return Kind(self.name, self.pair, mean, deviation)

    def to_dict(self) -> dict:
        """Every field, as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "Kind":
        """What ``to_dict`` wrote; raises ``ValueError`` or ``TypeError`` for anything else."""
        return cls(**values)


def kinds_of_config(kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """``kinds`` and ``units`` of a ``HyperLoaderConfig``: of the tasks with heads."""
    kinds = {task: kind for task, kind in kinds.items() if not kind.written}
    units = {task: (kind.mean, kind.deviation) for task, kind in kinds.items() if kind.name == REGRESSION}
    return {"kinds": {task: kind.name for task, kind in kinds.items()}, "units": units}
