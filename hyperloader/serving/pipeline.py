"""The threads of a server: texts are encoded and answers written beside the model, which computes batch after batch."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from hyperloader.data.formulation import Answer
from hyperloader.serving.jobs import Item, Job
from hyperloader.serving.logs import log
from hyperloader.serving.metrics import Metrics
from hyperloader.serving.predictor import Question
from hyperloader.serving.settings import Settings
from hyperloader.serving.waiting import Piece, WaitingRoom

_AT_ONCE = 256  # items that are encoded together


class Pipeline:
    """Answers jobs in three threads: one encodes, one computes, one writes.

    Args:
        max_tokens: of a batch.
    """

    def __init__(self, settings: Settings, max_tokens: int, metrics: Metrics) -> None:
        self._metrics = metrics
        self.waiting = WaitingRoom(max_tokens, settings.max_wait_ms / 1000, settings.mixed)
        self._arrived: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._computed: queue.SimpleQueue[tuple[Sequence[Piece], Sequence[Answer]] | None] = queue.SimpleQueue()
        steps: list[Callable[[], None]] = [self._encode, self._compute, self._write]
        self._threads = [threading.Thread(target=step, name=step.__name__, daemon=True) for step in steps]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> None:
        """Take a job; its future is settled, whatever happens."""
        self._arrived.put(job)

    def close(self) -> None:
        """End the threads when everything has been answered."""
        self._arrived.put(None)
        for thread in self._threads:
            thread.join()

    @property
    def alive(self) -> bool:
        """Whether all threads run."""
        return all(thread.is_alive() for thread in self._threads)

    def _encode(self) -> None:
        while self._encode_next():
            pass
        self.waiting.close()

    def _encode_next(self) -> bool:
        """Encode the jobs that are there, or the next one to come; whether more may come."""
        jobs: list[Job] = []
        items, job = 0, self._arrived.get()
        while job is not None:
            jobs.append(job)
            items += len(job.items)
            if items >= _AT_ONCE:
                break
            try:
                job = self._arrived.get_nowait()
            except queue.Empty:
                break
        self._encode_all([one for one in jobs if not one.dropped])
        return job is not None

    def _encode_all(self, jobs: Sequence[Job]) -> None:
        try:
            self._put([item for job in jobs for item in job.items])
        except Exception as error:
            if len(jobs) == 1:  # whose fault it is
                jobs[0].fail(error)
            else:
                for job in jobs:
                    self._encode_all([job])

    def _put(self, items: Sequence[Item]) -> None:
        by_version: dict[object, list[Item]] = {}
        for item in items:
            by_version.setdefault(item.version, []).append(item)
        pieces: list[Piece] = []
        for some in by_version.values():
            predictor = some[0].version.predictor
            for item in some:
                given = predictor.forms[item.question.task].ready(item.question.given)
                item.question = Question(item.question.task, given)
            encoded = predictor.encode([item.question for item in some])
            for item, examples in zip(some, encoded, strict=True):
                item.asks(examples)
                pieces += [Piece(example, item, item.version) for example in examples]
        self.waiting.put(pieces)
        empty = [item for item in items if not item.examples]
        if empty:
            self._computed.put(([Piece(None, item, None) for item in empty], []))  # type: ignore[arg-type]

    def _compute(self) -> None:
        while (pieces := self.waiting.take()) is not None:
            start = time.perf_counter()
            found = self._ask(pieces)
            self._metrics.computed([piece.example for piece in pieces], time.perf_counter() - start)
            done = [(piece, answer) for piece, answer in zip(pieces, found, strict=True) if answer is not None]
            self._computed.put(([piece for piece, _ in done], [answer for _, answer in done]))
            del pieces, found, done  # a version that has been replaced is not kept while nothing comes
        self._computed.put(None)

    def _ask(self, pieces: Sequence[Piece]) -> Sequence[Answer | None]:
        try:
            return pieces[0].model.predictor.ask([piece.example for piece in pieces])
        except Exception as error:
            if len(pieces) == 1:
                log("computing failed", logging.ERROR, error=error)
                pieces[0].of.job.fail(RuntimeError("computing failed"))
                return [None]
            return [self._ask([piece])[0] for piece in pieces]

    def _write(self) -> None:
        while (computed := self._computed.get()) is not None:
            self._write_all(*computed)
            del computed

    def _write_all(self, pieces: Sequence[Piece], answers: Sequence[Answer]) -> None:
        for number, piece in enumerate(pieces):
            item = piece.of
            if item.dropped:
                continue
            try:
                if piece.model is None:
                    item.done()
                else:
                    item.got(piece.example, answers[number])
            except Exception as error:
                item.job.fail(error)
