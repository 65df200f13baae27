"""Which backend computes an operator on a GPU under ``auto``, where the extension and Triton both have kernels for it.

The choice stands in gpu_choice.json, by operator and by the size of its first tensor. It is computed until a GPU was
measured (``python -m bench choose``), and says so.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hyperloader.ops import _transforms, _triton, native

TABLE = Path(__file__).with_name("gpu_choice.json")


class Piece(NamedTuple):
    """``backend`` computes tensors of up to ``tokens`` rows of up to ``features`` numbers, None for any."""

    features: int | None
    tokens: int | None
    backend: str


class Choice(NamedTuple):
    """The table: what it comes from, and the pieces of each operator, of which the first that fits a tensor counts."""

    source: str
    operators: dict[str, tuple[Piece, ...]]


@functools.cache
def read() -> Choice:
    """The table of this installation."""
    found = json.loads(TABLE.read_text(encoding="utf-8"))
    operators = {name: tuple(Piece(*piece) for piece in pieces) for name, pieces in found["operators"].items()}
    return Choice(found["source"], operators)


def kernels() -> tuple[str, ...]:
    """The backends with kernels for GPUs: ``native``, ``triton``, both or neither."""
    built = native.available and native.extension().build_info()["cuda"]
    return (*(["native"] if built else []), *(["triton"] if _triton.installed() else []))


def choosing(name: str, compiled: Callable, triton: Callable[[], Callable]) -> Callable:
    """``compiled``, unless the table gives some sizes of operator ``name`` to what ``triton()`` returns.

    What Triton's kernels refuse is computed by ``compiled``.
    """
    pieces = read().operators[name]
    if all(piece.backend == "native" for piece in pieces):
        return compiled

    def call(first: Any, *rest: Any) -> Any:
        if first.is_cuda and _backend(pieces, first.shape) == "triton" and not _transforms.active():
            arguments = (first, *rest)
            if _triton.fits(name, arguments):
                return triton()(*arguments)
        return compiled(first, *rest)

    return call


def described() -> str:
    """In words, what ``auto`` takes on a GPU, and where the choice comes from."""
    there = kernels()
    if len(there) < 2:
        return f"{there[0]}, which alone has kernels for GPUs" if there else "reference: nothing has kernels for GPUs"
    by_words: dict[str, list[str]] = {}
    for name, pieces in read().operators.items():
        by_words.setdefault(", ".join(map(_words, pieces)), []).append(name)
    parts = [f"{words} ({', '.join(names)})" for words, names in by_words.items()]
    return f"{'; '.join(parts) if len(parts) > 1 else next(iter(by_words))}: {read().source}"


def _words(piece: Piece) -> str:
    sizes = ((piece.tokens, "rows"), (piece.features, "features"))
    limits = " of ".join(f"{most} {what}" for most, what in sizes if most is not None)
    return f"{piece.backend} up to {limits}" if limits else piece.backend


def _backend(pieces: tuple[Piece, ...], shape: torch.Size) -> str:
    features, tokens = shape[-1], shape[:-1].numel()
    for piece in pieces:
        if (piece.features is None or features <= piece.features) and (piece.tokens is None or tokens <= piece.tokens):
            return piece.backend
    return "native"
