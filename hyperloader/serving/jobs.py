"""A request's questions on their way through the threads of a server."""

import asyncio
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hyperloader.data.examples import Example
from hyperloader.data.formulation import Answer
from hyperloader.data.sentence import DataError
from hyperloader.serving.predictor import Question

if TYPE_CHECKING:
    from hyperloader.serving.registry import Version


class Job:
    """What one request asks: questions, each for the version of a run; ``future`` gets the answers as JSON.

    Made in the event loop, which waits for ``future``. ``dropped`` is set there when nobody waits any more.
    """

    def __init__(self, asked: Sequence[tuple["Version", Question]], weight: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[bytes] = self.loop.create_future()
        self.dropped = False
        self.weight = weight
        self.items = [Item(self, version, question) for version, question in asked]
        self.left = len(self.items)

    def end(self) -> None:
        """Nobody waits any more. Without its items, which hold it, it is freed at once, not when cycles are sought."""
        self.dropped = True
        self.items = []

    def fail(self, error: Exception) -> None:
        """End it with an error; called in any thread."""
        self.dropped = True
        self._call(self.future.set_exception, error)

    def finish(self) -> None:
        """Hand over the answers; called in any thread."""
        try:
            answers = [item.answer for item in self.items]
            text = json.dumps({"answers": answers}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            done = text.encode()
        except ValueError:  # NaN, half a surrogate pair, a number of too many digits
            self.fail(DataError("inputs must be JSON text and numbers, got NaN, infinity or half a surrogate pair"))
            return
        self._call(self.future.set_result, done)

    def _call(self, settle: object, value: object) -> None:
        def unless_done() -> None:
            if not self.future.done():
                settle(value)  # type: ignore[operator]

        self.loop.call_soon_threadsafe(unless_done)


class Item:
    """One question of a job, with its windows' answers as they come."""

    __slots__ = ("answer", "answers", "examples", "job", "missing", "question", "version")

    def __init__(self, job: Job, version: "Version", question: Question) -> None:
        self.job, self.version, self.question = job, version, question
        self.examples: list[Example] = []
        self.answers: dict[int, Answer] = {}
        self.missing = 0
        self.answer: dict = {}

    @property
    def dropped(self) -> bool:
        """Whether nobody waits for it."""
        return self.job.dropped

    def asks(self, examples: list[Example]) -> None:
        """What is to be computed for it."""
        self.examples, self.missing = examples, len(examples)

    def got(self, example: Example, answer: Answer) -> None:
        """The model's answer to one of its windows; with the last one the item is done, with the last item the job."""
        self.answers[example.window] = answer
        self.missing -= 1
        if self.missing == 0:
            self.done()

    def done(self) -> None:
        """Write the answer."""
        given = [self.answers[example.window] for example in self.examples]
        self.answer = self.version.predictor.answer(self.question, self.examples, given)
        self.job.left -= 1
        if self.job.left == 0:
            self.job.finish()
