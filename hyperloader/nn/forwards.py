"""Forwards that run in several threads, and changes of the layers that they run through."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


class Forwards(AbstractContextManager):
    """Lets any number of forwards run at once, and a change while none does.

    A change waits for the forwards that are running; forwards that begin meanwhile wait for the change.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._running = 0
        self._changing = 0  # changes that wait or are being made
        self._changer: int | None = None  # the thread that makes one now
        self._own = threading.local()

    def __reduce__(self) -> tuple:  # copied or pickled with its model, nothing runs
        return type(self), ()

    def running(self) -> AbstractContextManager:
        """Around a forward; one inside another is part of it. In a trace there is nothing to wait for."""
        return nullcontext() if torch.compiler.is_compiling() else self

    def __enter__(self) -> None:
        depth = getattr(self._own, "depth", 0)
        if depth == 0:
            with self._condition:
                while self._changing and self._changer != threading.get_ident():
                    self._condition.wait()
                self._running += 1
        self._own.depth = depth + 1

    def __exit__(self, *_: Any) -> None:
        self._own.depth -= 1
        if self._own.depth == 0:
            with self._condition:
                self._running -= 1
                self._condition.notify_all()

    @contextmanager
    def changing(self, what: str) -> Iterator[None]:
        """Around a change called ``what``; raises ``RuntimeError`` inside a forward, which would wait for itself."""
        if getattr(self._own, "depth", 0):
            raise RuntimeError(f"{what} must be called between two forwards, got a call from inside one")
        with self._condition:
            self._changing += 1
            try:
                while self._running or self._changer is not None:
                    self._condition.wait()
            except BaseException:
                self._changing -= 1
                self._condition.notify_all()
                raise
            self._changer = threading.get_ident()
        try:
            yield
        finally:
            with self._condition:
                self._changing -= 1
                self._changer = None
                self._condition.notify_all()
