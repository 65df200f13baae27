"""``hyperloader demo --model smollm2``: five small tasks that one decoder answers with text."""

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hyperloader.cli.training_report import train_and_report

if TYPE_CHECKING:
    from hyperloader.data.sentence import Sentence

TRAINING = {  # no more than two cores do in some minutes
    "steps": 60,
    "batch_size": 12,
    "learning_rate": 2e-3,
    "max_length": 64,
    "select": "last",
    "save_steps": 30,
    "log_steps": 5,
}
EVENT, TIMED = "event", "timed"
SENTENCE = "find silver river with nina next tuesday at six"  # of words that training never shows


def demo(output: Path) -> None:
    """Train the five tasks in ``output``, and show how they answer in one batch."""
    from hyperloader.data.grammar import TASK_FILE
    from hyperloader.serving.tagger import Tagger
    from hyperloader.training.run_config import RunConfig
    from hyperloader.training.run_folder import check_output
    from hyperloader.training.smollm2 import smollm2_folder

    smollm2_folder()  # before anything is written: without the package this says what installs it
    data = output / "data"
    tasks = str(data.resolve() / TASK_FILE)
    config = RunConfig("smollm2", tasks, str(output), head="language-model", training=TRAINING)
    check_output(config, resume=True)  # before its data is written
    write(data)
    print(f"Five tasks made by grammars, in {data}: spans of three, a label, and a completion.")
    train_and_report(config, resume=True)
    tagger = Tagger.from_pretrained(output, tokenize="spaces")
    print("\nThe same words, asked by each task in one batch:")
    lines = [{"task": task, "text": SENTENCE} for task in tagger.tasks if task != EVENT]
    lines.append({"task": EVENT, "prompt": prompt(SENTENCE)})
    for answer in tagger(lines):
        print(f"  {answer['task']:<10}  {_said(answer)}")
    file = output / "mixed.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    print(
        f"\nTry it:\n  hyperloader predict {shlex.quote(os.path.relpath(output))} {shlex.quote(os.path.relpath(file))}"
    )


def _said(answer: dict) -> str:
    if "completion" in answer:
        return answer["completion"]
    if "label" in answer:
        return f"{answer['label']} ({answer['score']:.2f})"
    return ", ".join(f"{span['text']}: {span['label']}" for span in answer["spans"]) or "nothing"


def prompt(text: str) -> str:
    """What the task ``event`` asks about a sentence."""
    return f"{text}\nevent:"


def write(folder: Path) -> Path:
    """Write the three tasks of the grammars, and of their sentences one to label and one to complete; the task file."""
    from hyperloader.data import grammar

    sizes = {"train": 400, "validation": 24, "test": 40}
    task_file = grammar.write(folder, **sizes)
    for task, kind, rows in (
        (TIMED, "classification", lambda split, count: _timed(grammar.sentences("restaurant", split, count))),
        (EVENT, "completion", lambda split, count: _events(grammar.sentences("calendar", split, count))),
    ):
        (folder / task).mkdir(exist_ok=True)
        for split, count in sizes.items():
            lines = "".join(json.dumps(row) + "\n" for row in rows(split, count))
            (folder / task / f"{split}.jsonl").write_text(lines, encoding="utf-8")
        with task_file.open("a", encoding="utf-8") as entries:
            entries.write(f"  - {{name: {task}, kind: {kind}, path: {task}}}\n")
    return task_file


def _timed(sentences: "list[Sentence]") -> Iterator[dict]:
    for one in sentences:
        yield {"text": " ".join(one.tokens), "label": "a time" if "B-time" in one.tags else "any time"}


def _events(sentences: "list[Sentence]") -> Iterator[dict]:
    from hyperloader.data.bio import spans

    for one in sentences:
        events = [" ".join(one.tokens[first:after]) for label, first, after in spans(one.tags) if label == "event"]
        yield {"prompt": prompt(" ".join(one.tokens)), "completion": f" {', '.join(events) or 'none'}"}
