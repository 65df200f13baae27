"""A folder of JSONL, answered by as many processes as there are cores, on one machine or on a Ray cluster.

    pip install 'hyperloader[train]' 'ray[data]'
    python examples/ray_data_predict.py RUN_FOLDER TASK IN_FOLDER OUT_FOLDER [PROCESSES]

A line holds "text". Every line is written with its "answer" (JSON), in files that follow no order; a line without a
text gets {"error": ...} there.
"""

import json
import os
import sys

import ray

from hyperloader import Tagger


class Answers:
    def __init__(self, folder: str, task: str) -> None:
        self.tagger, self.task = Tagger.from_pretrained(folder, task=task), task

    def __call__(self, batch: dict) -> dict:
        texts = list(batch["text"])
        answers = iter(self.tagger([str(text) for text in texts if isinstance(text, str)], task=self.task))
        wrong = "text must be text, got "
        found = [next(answers) if isinstance(text, str) else {"error": f"{wrong}{text!r}"} for text in texts]
        return {**batch, "answer": [json.dumps(one, ensure_ascii=False) for one in found]}


if __name__ == "__main__":
    run, task, given, written = sys.argv[1:5]
    processes = int(sys.argv[5]) if len(sys.argv) > 5 else os.cpu_count() or 1
    lines = ray.data.read_json(os.path.abspath(given), file_extensions=["jsonl"])
    arguments = {"fn_constructor_args": (os.path.abspath(run), task), "concurrency": processes, "num_cpus": 1}
    lines.map_batches(Answers, batch_size=1024, **arguments).write_json(os.path.abspath(written))
