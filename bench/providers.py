"""How the cases put providers together."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from bench.case import Calls, Provider, Setting
from hyperloader.ops import use_backend, why_missing

OURS = ("native", "triton", "reference")  # the best first
PLAIN, COMPILED, PUBLISHED, PEFT = "plain PyTorch", "torch.compile", "published style", "PEFT LoRA"

Function = Callable[..., Iterable[Tensor]]  # of tensors, to what is compared


def ours_name(backend: str) -> str:
    """Name of one of our providers in tables."""
    return f"hyperloader {backend}"


def ours(make: Callable[[], Calls], suffix: str = "", compared: bool = True) -> list[Provider]:
    """One provider for every backend that runs here."""
    return [
        Provider(ours_name(backend) + suffix, _inside(backend, make), compared, around=partial(use_backend, backend))
        for backend in OURS
        if _why_not_measured(backend) is None
    ]


def missing_backends() -> dict[str, str]:
    """Why a backend of ours is not among the providers."""
    return {backend: reason for backend in OURS if (reason := _why_not_measured(backend)) is not None}


def _why_not_measured(backend: str) -> str | None:
    reason = why_missing(backend)
    if reason is None and backend == "triton" and not torch.cuda.is_available():
        return "it would be interpreted"
    return reason


def compiled(make: Callable[[Callable], Calls], setting: Setting) -> list[Provider]:
    """``torch.compile`` of the plain PyTorch provider; none where it is not asked for.

    ``make`` gets what compiles a function or module. The number of threads, which is compiled in, is named so that no
    cached kernel of another number is taken.
    """
    threads = {"cpp.threads": torch.get_num_threads()} if setting.device.type == "cpu" else None
    compiler = partial(torch.compile, dynamic=False, options=threads)
    return [Provider(COMPILED, lambda: make(compiler), compiled=True)] if setting.compile else []


def ours_compiled(make: Callable[[Callable], Calls], setting: Setting) -> list[Provider]:
    """``compiled`` of our model, on the best backend that runs here."""
    best = next(backend for backend in OURS if _why_not_measured(backend) is None)
    return [
        Provider(
            f"{ours_name(best)}, compiled", _inside(best, one.make), compiled=True, around=partial(use_backend, best)
        )
        for one in compiled(make, setting)
    ]


def _inside(backend: str, make: Callable[[], Calls]) -> Callable[[], Calls]:
    def make_inside() -> Calls:
        with use_backend(backend):
            return make()

    return make_inside


def forward_calls(function: Function, inputs: Sequence[Tensor]) -> Calls:
    """``function`` of ``inputs`` without autograd."""
    inputs = [tensor.detach() for tensor in inputs]

    def run():
        with torch.no_grad():
            return function(*inputs)

    return Calls.of(run)


def backward_calls(
    function: Function, inputs: Sequence[Tensor], wanted: Sequence[Tensor] | None = None, seed: int = 1
) -> Calls:
    """``function`` of ``inputs`` and the gradients of ``wanted``, by default of the inputs that have one, given random
    gradients of the results.

    ``seed`` draws them in float64, so that providers in any dtype get the same.
    """
    wanted = [tensor for tensor in inputs if tensor.requires_grad] if wanted is None else wanted
    outputs = list(function(*inputs))
    generator = torch.Generator().manual_seed(seed)
    grads = [
        torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.device, output.dtype)
        for output in outputs
    ]

    def run():
        outputs = list(function(*inputs))
        gradients = torch.autograd.grad(outputs, wanted, grads, allow_unused=True, materialize_grads=True)
        return [*outputs, *gradients]

    return Calls.of(run)


def as_reference(calls: Callable[[], Calls]) -> Callable[[], Iterable[Tensor]]:
    """The results of ``calls``, built and computed by the reference backend."""

    def expected():
        with use_backend("reference"):
            return list(calls().results())

    return expected


def random_tensors(
    shapes: Sequence[tuple[int, ...]], setting: Setting, dtype: torch.dtype | None = None, seed: int = 0
) -> list[Tensor]:
    """Leaves that require a gradient: normal, divided by √(last dimension) where there are two dimensions or more."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for shape in shapes:
        tensor = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            tensor /= shape[-1] ** 0.5
        found.append(tensor.to(setting.device, setting.dtype).to(dtype or setting.dtype).requires_grad_(True))
    return found
