"""``hyperloader evaluate``: scores of a trained run."""

from pathlib import Path
from typing import Annotated

import typer

from hyperloader.cli.table import scored_by, scores_table


def evaluate(
    run_folder: Annotated[Path, typer.Argument(help="Output folder of `hyperloader train`.", metavar="RUN_FOLDER")],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    task: Annotated[list[str] | None, typer.Option(help="Score this task alone; repeat for several.")] = None,
    decoding: Annotated[
        str | None,
        typer.Option(help="Read generated text by sentinel or by position, as published; if not as the run does."),
    ] = None,
    valid_tags: Annotated[
        bool | None,
        typer.Option(
            "--valid-tags/--each-word",
            help="Of a token classifier take the most probable tags that are BIO, or every word's most probable label; "
            "if not as the run does.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Sentences of every task, at most, the same random part every time; 0 for all; without it the run's "
            "eval_sentences.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Score a run's best weights, task by task."""
    from hyperloader.training.saved_run import evaluate as scores_of

    scores = scores_of(run_folder, split, tasks=task, decoding=decoding, valid_tags=valid_tags, limit=limit)
    print(f"{run_folder}: {scored_by(scores)}, {split}\n")
    print(scores_table(scores))
