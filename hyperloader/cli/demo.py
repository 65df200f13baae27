"""``hyperloader demo``: three small tasks from grammars, trained and tried in a few minutes, without a network."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyperloader.cli import language_model_demo
from hyperloader.cli.training_report import train_and_report
from hyperloader.validation import check_choice

if TYPE_CHECKING:
    from hyperloader.training.saved_run import Run

MINILM, SMOLLM2 = "minilm", "smollm2"
OUTPUTS = {MINILM: Path("hyperloader-demo"), SMOLLM2: Path("hyperloader-demo-smollm2")}
# Their names, people, places and times belong to the test split: training never shows them.
SAME_WORDS = (
    "find silver river with nina next tuesday at six",
    "get emerald garden with leila in vienna",
)
OWN_WORDS = {
    "restaurant": "please book a table for six at hidden orchid this afternoon around eleven",
    "music": "play the album emerald mirror by omar",
    "calendar": "move my piano lesson to monday at six",
}
TRAINING = {  # a short run learns at a high rate
    "steps": 150,
    "eval_steps": 25,
    "save_steps": 75,
    "log_steps": 5,
}
COLOURS = (34, 32, 35, 33, 36)  # ANSI: blue, green, magenta, yellow, cyan


def demo(
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for data, model and plots.", show_default=" or ".join(map(str, OUTPUTS.values()))),
    ] = None,
    model: Annotated[str, typer.Option(help="minilm or, with five tasks in under ten minutes, smollm2.")] = MINILM,
) -> None:
    """Train one model for three small slot-filling tasks, and show what it does: offline, in under three minutes."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    check_choice("model", model, tuple(OUTPUTS))
    output = output or OUTPUTS[model]
    if model == SMOLLM2:
        language_model_demo.demo(output)
        return
    from hyperloader.checkpoints.minilm import minilm_folder
    from hyperloader.data import grammar

    minilm_folder()  # before anything is written: without the package this says what installs it
    from hyperloader.training.run_config import RunConfig
    from hyperloader.training.run_folder import check_output
    from hyperloader.training.saved_run import load_run

    data = output / "data"
    config = RunConfig("minilm", str(data.resolve() / grammar.TASK_FILE), str(output), training=TRAINING)
    check_output(config, resume=True)  # before its data is written
    grammar.write(data)
    print(f"Three tasks made by grammars, in {data}: {', '.join(grammar.TASKS)}.")
    print("Names, places and times of their test sentences never occur in training.\n")
    train_and_report(config, resume=True, title="F1 on unseen slot values")
    show(load_run(output), colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    sentence = shlex.quote(SAME_WORDS[0])
    print("\nTry it:")
    beside = os.path.relpath(Path(sys.executable).with_name("hyperloader"))
    command = "hyperloader" if shutil.which("hyperloader") else shlex.quote(beside)
    for task in grammar.TASKS:
        print(f"  echo {sentence} | {command} predict {shlex.quote(str(output))} --task {task}")


def show(run: "Run", colour: bool) -> None:
    """Print what the model finds in a few sentences."""
    width = max(map(len, run.tasks))
    for sentence in SAME_WORDS:
        print("\nThe same words, read by each task:")
        for task in run.tasks:
            print(f"  {task.ljust(width)}  {_tagged(run, sentence, task, colour)}")
    print("\nSentences of their own:")
    for task, sentence in OWN_WORDS.items():
        print(f"  {task.ljust(width)}  {_tagged(run, sentence, task, colour)}")


def _tagged(run: "Run", sentence: str, task: str, colour: bool) -> str:
    from hyperloader.training.saved_run import predict

    words = sentence.split()
    labels = sorted({label[2:] for label in run.labels[task] if label != "O"})
    (tags,) = predict(run, [words], task)
    return marked(words, tags, labels, colour)


def marked(words: Sequence[str], tags: Sequence[str], labels: Sequence[str], colour: bool) -> str:
    """The sentence with its spans: coloured, with the label behind, or as ``[words: label]``."""
    parts: list[tuple[str | None, list[str]]] = []
    for word, tag in zip(words, tags, strict=True):
        if tag[:2] == "I-" and parts and parts[-1][0] == tag[2:]:
            parts[-1][1].append(word)
        else:
            parts.append((None if tag == "O" else tag[2:], [word]))

    def text(label: str | None, words: list[str]) -> str:
        span = " ".join(words)
        if label is None:
            return span
        if not colour:
            return f"[{span}: {label}]"
        code = COLOURS[labels.index(label) % len(COLOURS)]
        return f"\033[1;{code}m{span}\033[0m \033[{code}m({label})\033[0m"

    return " ".join(text(label, words) for label, words in parts)
