"""A run on more than one machine: Ray Serve replicas, each of which joins the requests of all tasks into its batches.

    pip install 'hyperloader[train]' 'ray[serve]'
    RUN_FOLDER=/shared/runs/seven-tasks serve run examples.ray_serve:app     # on a Ray cluster that sees the folder
    python examples/ray_serve.py RUN_FOLDER TASK TEXT                        # here, one question

POST / takes {"inputs": [{"text": ..., "task": ...}, ...]}, as `hyperloader serve` does.
"""

import os
import sys

from ray import serve
from starlette.requests import Request

from hyperloader import Tagger


@serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 1}, num_replicas=1)
class Replica:
    def __init__(self, folder: str) -> None:
        self.tagger = Tagger.from_pretrained(folder)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def answer(self, requests: list[list[dict]]) -> list[list[dict]]:
        answers = iter(self.tagger([one for inputs in requests for one in inputs]))
        return [[next(answers) for _ in inputs] for inputs in requests]

    async def __call__(self, request: Request) -> dict:
        return {"answers": await self.answer((await request.json())["inputs"])}


def app_of(folder: str) -> serve.Application:
    return Replica.bind(os.path.abspath(folder))


if __name__ == "__main__":
    folder, task, text = sys.argv[1:4]
    handle = serve.run(app_of(folder), route_prefix=None)
    print(handle.answer.remote([{"text": text, "task": task}]).result())
    serve.shutdown()
elif "RUN_FOLDER" in os.environ:
    app = app_of(os.environ["RUN_FOLDER"])
