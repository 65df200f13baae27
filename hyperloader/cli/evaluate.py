"""`hyperloader evaluate`: scores of a trained run."""

from pathlib import Path
from typing import Annotated

import typer

from hyperloader.cli.table import scores_table


def evaluate(
    run_folder: Annotated[Path, typer.Argument(help="Output folder of `hyperloader train`.", metavar="RUN_FOLDER")],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    task: Annotated[str | None, typer.Option(help="Show this task alone.")] = None,
) -> None:
    """Score a run's best weights, task by task."""
    from hyperloader.training import run
    from hyperloader.training.presets import check_key

    if task is not None:
        check_key("task", task, run.load_run(run_folder).tasks)
    scores = run.evaluate(run_folder, split)
    if task is not None:
        one = scores["tasks"][task]
        scores = {"tasks": {task: one}, "mean_f1": one["f1"]}
    print(f"{run_folder}: micro-F1 over spans, {split}\n")
    print(scores_table(scores))
