"""What a benchmark case is made of."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.clock import DEVICE

FORWARD, BOTH = "forward", "forward + backward"


class Unavailable(Exception):
    """Raised by ``Provider.make`` where a provider cannot run here: shown in the tables, no error."""


@dataclass(frozen=True)
class Calls:
    """What a provider does at one point.

    ``run`` is what is timed. ``results`` returns the tensors that are compared with the reference; ``run`` itself,
    where it returns them.
    """

    run: Callable[[], object]
    results: Callable[[], Iterable[Tensor]]

    @classmethod
    def of(cls, run: Callable[[], Iterable[Tensor]]) -> "Calls":
        """Calls of a function that returns what is compared."""
        return cls(run, run)


@dataclass(frozen=True)
class Provider:
    """One way to compute what a case is about.

    ``make`` builds it, once per pass. ``compared`` is False for one that computes less than the others, such as the
    frozen backbone alone. ``compiled`` marks torch.compile: its failure is a result, and its operators are not counted.
    ``around`` is entered before the clock starts, as the choice of a backend.
    """

    name: str
    make: Callable[[], Calls]
    compared: bool = True
    compiled: bool = False
    around: Callable[[], AbstractContextManager] = nullcontext


@dataclass(frozen=True)
class Pass:
    """One thing to measure at a point: ``forward``, ``forward + backward``, a step.

    The first provider is the baseline. ``expected`` computes the float64 reference. ``flop`` and ``bytes`` are the
    floating-point operations and the memory traffic that a perfect implementation cannot avoid, and ``units`` of
    ``unit`` are done in one call, where a case has them. ``forgiven`` times the usual error counts as right.
    """

    name: str
    providers: Sequence[Provider]
    expected: Callable[[], Iterable[Tensor]]
    flop: int | None = None
    bytes: int | None = None
    units: int | None = None
    unit: str = ""
    forgiven: float = 1.0


@dataclass(frozen=True)
class Point:
    """One set of sizes at which a case is measured.

    ``sweep`` names the size that its sweep varies, if it is in one; ``device`` the only device that it is for.
    """

    name: str
    sizes: dict[str, int | str]
    sweep: str = ""
    headline: bool = False
    device: str = ""


@dataclass(frozen=True)
class Setting:
    """How everything in one run is measured."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    compile: bool = True


@dataclass(frozen=True)
class Case:
    """A benchmark: its points, and how to build what is measured at one of them.

    ``gate`` is the small point at which ``bench.gate`` counts operators and bytes; None leaves the case out of it.
    ``clock`` is what counts on a GPU: ``device``, the time of the kernels alone, from events and with an empty second
    cache, or ``wall``, the time that the host waits.
    """

    name: str
    title: str
    points: Sequence[Point]
    passes: Callable[[Point, Setting], Iterable[Pass]]
    gate: Point | None = None
    clock: str = DEVICE
