"""Requests to a server and their answers: what is taken, what is refused, and new versions of runs."""

import asyncio
import math
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from hyperloader.data.sentence import DataError
from hyperloader.serving.jobs import Job
from hyperloader.serving.logs import log
from hyperloader.serving.metrics import Metrics
from hyperloader.serving.pace import Pace
from hyperloader.serving.pipeline import Pipeline
from hyperloader.serving.receiving import body_of, disconnected
from hyperloader.serving.refusals import Refusal, busy
from hyperloader.serving.registry import Registry
from hyperloader.serving.requests import PredictRequest, parsed, questions
from hyperloader.serving.settings import Settings

_GONE = 499  # the client has left: nobody reads this


class Service:
    """Takes requests as long as the queue has room, and answers them."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self.registry, self.settings, self.metrics = registry, settings, Metrics()
        most = max(version.predictor.max_tokens for version in registry.runs.values())
        self.pipeline = Pipeline(settings, settings.max_batch_tokens or most, self.metrics)
        self.waiting = 0  # inputs
        self.draining = False  # the process is going to end
        self.pace = Pace()

    async def predict(self, request: Request) -> Response:
        """Answers as JSON; raises ``Refusal``."""
        settings = self.settings
        body = await body_of(request, settings.max_body_bytes, settings.body_timeout_s)
        asked, weight = questions(parsed(PredictRequest, body), self.registry.tasks, settings)
        if self.waiting and self.waiting + weight > settings.max_queue:
            raise busy(self.pace.seconds(self.waiting, min(60, math.ceil(settings.timeout_s))))
        request.state.fields |= {"inputs": len(asked), "bytes": len(body)}
        for _, question in asked:
            self.metrics.inputs.labels(question.task).inc()
        return await self._answered(Job(asked, weight), request)

    async def _answered(self, job: Job, request: Request) -> Response:
        answered = 0
        self._wait(job.weight)
        self.pipeline.submit(job)
        left = asyncio.ensure_future(disconnected(request))
        try:
            await asyncio.wait((job.future, left), timeout=self.settings.timeout_s, return_when="FIRST_COMPLETED")
            if job.future.done():
                response, answered = Response(job.future.result(), media_type="application/json"), job.weight
                return response
            if left.done():
                return Response(status_code=_GONE)
            raise Refusal(504, "timeout", f"no answer within {self.settings.timeout_s:g} s")
        except DataError as error:  # of an input that cannot be encoded
            raise Refusal(422, "invalid", str(error), field="inputs") from None
        finally:
            job.end()
            left.cancel()
            self._wait(-job.weight, answered)

    def _wait(self, more: int, answered: int = 0) -> None:
        self.waiting += more
        self.metrics.queue.set(self.waiting)
        self.pace.note(self.waiting, answered)

    async def reload(self, names: list[str]) -> dict[str, int]:
        """Load new versions of runs: the number of each; raises ``Refusal`` for the first that stays as it was."""
        found = {}
        for name in names:
            try:
                version = await self.registry.reload(name)
            except Exception as error:
                self.metrics.reloads.labels("refused").inc()
                log("reload refused", 40, error=error, run=name, reason=str(error))
                message = f"the new version of run {name!r} cannot be served (the log says why); the one before stays"
                raise Refusal(409, "refused", message) from None
            self.metrics.reloads.labels("done").inc()
            log("reloaded", run=name, version=version.number)
            found[name] = version.number
        return found

    def tasks(self) -> list[dict[str, Any]]:
        """What can be asked."""
        found = []
        for task, version in self.registry.tasks.items():
            run = version.predictor.run
            kind = run.kinds.get(task)
            labels = run.labels[task]
            if kind is None:
                labels = sorted({label[2:] for label in labels if label != "O"})
            found.append({
                "task": task, "run": version.name, "version": version.number, "kind": "tagging" if kind is None else
                kind.name, "pair": kind is not None and kind.pair, "labels": labels,
            })  # fmt: skip
        return found
