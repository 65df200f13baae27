"""What ``train`` and ``demo`` print and draw around a training."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyperloader import signals
from hyperloader.cli.table import scored_by, scores_table
from hyperloader.processes import is_main_process, process_count
from hyperloader.training.headlines import MEAN_F1, headline, mean_key

if TYPE_CHECKING:
    from hyperloader.data.tasks import Task
    from hyperloader.training.run_config import RunConfig

LEARNING_CURVE, PER_TASK = "learning-curve.png", "per-task.png"


def train_and_report(config: "RunConfig", resume: bool, *, title: str | None = None) -> None:
    """Train with a progress bar, draw the plots, print the table; of several processes the main one prints.

    Without a terminal, and into a pipe, every evaluation is a line.

    Raises:
        KeyboardInterrupt: with the command that resumes the run.
    """
    from hyperloader.training.requirements import check_requirements
    from hyperloader.training.run import train

    output, prints = shown(Path(config.output)), is_main_process()
    if prints:
        check_requirements(config)
        announce(config, output)
    bar = sys.stderr.isatty()
    signals.hint(lambda: how_to_resume(output))
    options = {"progress": bar, "lines": not (bar and sys.stdout.isatty())}
    try:
        metrics = train(config, resume=resume, on_data=print_notes if prints else lambda tasks: None, **options)
    except KeyboardInterrupt as interrupt:
        raise type(interrupt)(how_to_resume(output)) from None
    if metrics["test"] is None:
        raise ValueError(f"{output}: the run was a search without test scores; run: hyperloader evaluate {output}")
    if prints:
        title = title or ("Test F1 by task" if mean_key(metrics["test"]) == MEAN_F1 else "Test scores by task")
        plots = draw(metrics, output, title)
        print(conclusion(metrics, output, plots, title))


def shown(path: Path) -> Path:
    """``path`` as a user would write it: from the working directory, where that holds it."""
    path = Path(os.path.abspath(path))
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def how_to_resume(output: Path) -> str:
    """What a user who has ended a training should know."""
    saved = output / "config.yaml"
    several = ["torchrun", "--nproc-per-node", str(process_count()), "-m", "hyperloader.cli"]
    program = several if process_count() > 1 else ["hyperloader"]
    command = shlex.join([*program, "train", str(saved), "--resume"])
    return f"resume with: {command}" if saved.is_file() else "nothing was saved yet"


def announce(config: "RunConfig", output: Path) -> None:
    """Print what is going to happen."""
    from hyperloader.training.progress import size_of_a_step

    options = config.options
    size = size_of_a_step(options, process_count())
    half = "" if config.backbone_dtype == "float32" else f" in {config.backbone_dtype}"
    quantized = "" if config.backbone_quantization is None else f" as {config.backbone_quantization}"
    print(f"{config.method} on {config.backbone}{half}{quantized}: {options.steps:,} steps, {size}, to {output}")
    sys.stdout.flush()


def print_notes(tasks: Sequence["Task"]) -> None:
    """Print what a user should know about the data."""
    for task in tasks:
        for note in task.notes:
            print(f"note: {note}", file=sys.stderr)
        for warning in task.warnings:
            print(f"warning: {warning}", file=sys.stderr)


def conclusion(metrics: dict, output: Path, plots: list[Path], title: str) -> str:
    """The table of scores and where everything lies."""
    from hyperloader.training.reporting import duration

    steps, seconds, compiling = metrics["steps"], metrics["seconds_per_step"], metrics.get("seconds_compiling")
    return "\n".join(
        (
            f"\n{title} ({scored_by(metrics['test'])}), weights of step {metrics['best_step']:,}\n",
            scores_table(metrics["test"]),
            f"\ntrained  {metrics['trainable_parameters']:,} parameters in {steps:,} steps"
            + (f" of {seconds:.2f} s" if seconds else "")
            + (f", and {duration(compiling)} of compiling" if compiling else ""),
            *encoding_notes(metrics),
            f"model    {output / 'best'}",
            f"metrics  {output / 'metrics.json'}",
            *(f"plot     {plot}" for plot in plots),
        )
    )


def encoding_notes(metrics: dict) -> list[str]:
    """What did not fit into ``max_length`` tokens, over all sentences that the run has encoded; nothing if all did."""
    counts = list(metrics["encoding"].values())
    length = metrics["config"]["training"]["max_length"]
    sentences = sum(one["sentences"] for one in counts)
    notes = {
        "split_sentences": f"of {sentences:,} sentences do not fit and were split into windows",
        "cut_words": "words are longer than a window: their first tokens were kept",
        "no_subwords": "words have no token and were labelled O",
        "long_targets": "targets are longer: a model cannot write their end",
        "truncated": "texts or pairs are longer: their first tokens were kept",
        "cut_targets": "texts to be written are longer: their ends were not trained on",
    }
    found = {name: sum(one.get(name, 0) for one in counts) for name in notes}  # an earlier version counted fewer
    return [f"encoded  with {length} tokens: {found[name]:,} {note}" for name, note in notes.items() if found[name]]


def draw(metrics: dict, folder: Path, title: str) -> list[Path]:
    """The learning curve and the scores by task as PNG files in ``folder``."""
    from hyperloader.training.plots import learning_curve, per_task_bars

    curve, bars = folder / LEARNING_CURVE, folder / PER_TASK
    name = f"{metrics['method']}, {metrics['trainable_parameters']:,} trained parameters"
    learning_curve(metrics["learning_curve"], curve, title=f"Learning curve: {name}")
    scores = {task: one[headline(one)] for task, one in metrics["test"]["tasks"].items()}
    per_task_bars(scores, bars, title=f"{title}: {name}", axis=f"{scored_by(metrics['test'])} (%)")
    return [curve, bars]
