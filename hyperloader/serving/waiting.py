"""What waits to be computed, and which of it makes the next batch."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hyperloader.data.examples import Example
from hyperloader.serving.batches import batches_by_length

_LOOK = 1024  # pieces that have waited longest, of which a batch is made


@dataclass(eq=False, slots=True)
class Piece:
    """One window of an input. ``of`` is whose answer it is part of: its ``dropped`` tells that nobody waits any more.
    Pieces of several ``model`` share no batch."""

    example: Example
    of: Any
    model: Any
    since: float = field(default_factory=time.monotonic)


class WaitingRoom:
    """Pieces in the order in which they came. ``put`` and ``take`` may be called from different threads.

    Args:
        max_tokens: of a batch, padding included.
        max_wait: seconds that the oldest piece waits for others while the batch is not full.
        mixed: whether a batch may hold several tasks.
    """

    def __init__(self, max_tokens: int, max_wait: float, mixed: bool = True) -> None:
        self._max_tokens, self._max_wait, self._mixed = max_tokens, max_wait, mixed
        self._pieces: list[Piece] = []
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._pieces)

    def put(self, pieces: Iterable[Piece]) -> None:
        """Add pieces behind the others."""
        with self._changed:
            self._pieces.extend(pieces)
            self._changed.notify()

    def close(self) -> None:
        """Nothing comes any more; what is there is still taken, at once."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def take(self) -> list[Piece] | None:
        """The next batch: the piece that has waited longest, and those with which it is computed best. Waits for one;
        None at the end."""
        with self._changed:
            while True:
                self._pieces = [piece for piece in self._pieces if not piece.of.dropped]
                if self._pieces:
                    oldest = self._pieces[0]
                    left = oldest.since + self._max_wait - time.monotonic()
                    if left <= 0 or self._closed or self._is_full():
                        return self._next(oldest)
                    self._changed.wait(left)
                elif self._closed:
                    return None
                else:
                    self._changed.wait()

    def _is_full(self) -> bool:
        tokens = 0
        for piece in self._pieces:
            tokens += len(piece.example.input_ids)
            if tokens >= self._max_tokens:
                return True
        return False

    def _next(self, oldest: Piece) -> list[Piece]:
        fits = [
            piece
            for piece in self._pieces[:_LOOK]
            if piece.model is oldest.model and (self._mixed or piece.example.task_id == oldest.example.task_id)
        ]
        batches = batches_by_length([len(piece.example.input_ids) for piece in fits], self._max_tokens)
        batch = [fits[place] for place in next(batch for batch in batches if 0 in batch)]
        taken = set(map(id, batch))
        self._pieces = [piece for piece in self._pieces if id(piece) not in taken]
        return batch
