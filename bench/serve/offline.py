"""The same questions without a server, and large files as `predict` answers them now and did before."""

import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hyperloader import Tagger
from hyperloader.training.saved_run import Run, for_task, load_run, tag


def questions(run: Run, count: int) -> list[dict]:
    """Test sentences of all tasks of single texts, mixed at random."""
    numbers, found = random.Random(0), list[dict]()
    sentences = {
        task.name: [one for one in task.test if len(one.content) == 1 or task.name not in run.kinds]
        for task in run.config.load_tasks()
    }
    tasks = [task for task, some in sentences.items() if some]
    for _ in range(count):
        task = numbers.choice(tasks)
        one = numbers.choice(sentences[task])
        words = {"tokens": list(one.content)} if task not in run.kinds else {"text": one.content[0]}
        found.append({"task": task, **words})
    return found


def mixed(tagger: Tagger, asked: Sequence[dict]) -> tuple[float, list[dict]]:
    """Sentences a second, and the answers."""
    start = time.perf_counter()
    answers = tagger(asked)
    return len(asked) / (time.perf_counter() - start), answers


def predict(folder: Path, count: int, repeats: int) -> dict:
    """Sentences a second of one tagging task, merged, on ``count`` sentences of mixed lengths: 64 at a time in the
    order of the file, as ``hyperloader predict`` did, and sorted by length. In turn; the best of some repeats each."""
    run = load_run(folder)
    task = next(task for task in run.tasks if task not in run.kinds)
    words = [one.tokens for one in next(iter(run.config.load_tasks([task]))).test]
    numbers = random.Random(0)
    sentences = [
        [word for _ in range(numbers.choice((1, 1, 1, 1, 2, 3, 6))) for word in numbers.choice(words)]
        for _ in range(count)
    ]
    before, now = for_task(run, task), Tagger.from_pretrained(folder, task=task)
    asked = [{"tokens": sentence} for sentence in sentences]
    ways: dict[str, Callable[[], list[list[str]]]] = {
        "64 in the order of the file": lambda: [one.tags for one in tag(before, sentences, task, 64)],
        "sorted by length": lambda: [one["tags"] for one in now(asked)],
    }
    seconds = {name: float("inf") for name in ways}
    tags = {}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            tags[name] = way()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    one, other = tags.values()
    return {
        "task": task, "sentences": count, "words": sum(map(len, sentences)),
        "sentences_per_s": {name: count / value for name, value in seconds.items()},
        "different_answers": sum(first != second for first, second in zip(one, other, strict=True)),
    }  # fmt: skip


def bodies(asked: Sequence[dict], inputs: int) -> tuple[list[bytes], list[range]]:
    """Requests of ``inputs`` inputs each, and which of the questions each one holds."""
    parts = [range(start, start + inputs) for start in range(0, len(asked) - inputs + 1, inputs)]
    return [json.dumps({"inputs": [asked[number] for number in part]}).encode() for part in parts], parts


def wrong(answer: bytes, expected: Sequence[dict]) -> int:
    """How many answers of a request differ from those without a server: other tags or labels, scores by over 0.01."""
    found = json.loads(answer)["answers"]
    return sum(not _same(one, other) for one, other in zip(found, expected, strict=True))


def _same(one: object, other: object) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_same(one[key], other[key]) for key in one if key not in ("line", "scores"))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float | int):
        return abs(one - other) <= 0.01 * max(1.0, abs(other))
    return one == other
