"""A run on more than one machine: Ray Serve replicas, each of which joins the requests of all tasks into its batches.

    pip install 'hyperloader[train]' 'ray[serve]'
    RUN_FOLDER=/shared/runs/seven-tasks serve run examples.ray_serve:app     # on a Ray cluster that sees the folder
    python examples/ray_serve.py RUN_FOLDER TASK TEXT                        # here, one question

POST / takes {"inputs": [{"text": ..., "task": ...}, ...]}, as `hyperloader serve` does. A request with a wrong input
gets status 422 and {"error": ...}; those that were joined with it are answered.
"""

import os
import sys

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from hyperloader import Tagger


def answer_all(tagger: Tagger, requests: list[list[dict]]) -> list[list[dict] | Exception]:
    """The answers to each request, or its own error: requests that fail together are halved until one is left."""
    try:
        answers = iter(tagger([one for inputs in requests for one in inputs]))
    except Exception as error:
        if len(requests) == 1:
            return [error]
        half = len(requests) // 2
        return answer_all(tagger, requests[:half]) + answer_all(tagger, requests[half:])
    return [[next(answers) for _ in inputs] for inputs in requests]


@serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 1}, num_replicas=1)
class Replica:
    def __init__(self, folder: str) -> None:
        self.tagger = Tagger.from_pretrained(folder)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def answer(self, requests: list[list[dict]]) -> list[list[dict] | Exception]:
        return answer_all(self.tagger, requests)

    async def __call__(self, request: Request) -> JSONResponse:
        try:
            body = await request.json()
            if not isinstance(body, dict) or not isinstance(body.get("inputs"), list):
                raise ValueError('the body must be {"inputs": [...]}')
            answers = await self.answer(body["inputs"])
            if isinstance(answers, Exception):
                raise answers
        except (TypeError, ValueError) as error:  # others are faults of the server
            return JSONResponse({"error": str(error)}, 422)
        return JSONResponse({"answers": answers})


def app_of(folder: str) -> serve.Application:
    return Replica.bind(os.path.abspath(folder))


if __name__ == "__main__":
    folder, task, text = sys.argv[1:4]
    handle = serve.run(app_of(folder), route_prefix=None)
    answers = handle.answer.remote([{"text": text, "task": task}]).result()
    serve.shutdown()
    if isinstance(answers, Exception):
        sys.exit(f"error: {answers}")
    print(answers)
elif "RUN_FOLDER" in os.environ:
    app = app_of(os.environ["RUN_FOLDER"])
