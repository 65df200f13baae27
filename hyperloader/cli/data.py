"""`hyperloader data check`: what a task file names, counted and checked."""

from pathlib import Path
from typing import Annotated

import typer


def check(
    task_file: Annotated[Path, typer.Argument(help="YAML file with `tasks:`.", metavar="TASKS.yaml")],
    backbone: Annotated[
        str | None, typer.Option(help="Also count what its tokenizer splits: a folder, a model of the Hub, or minilm.")
    ] = None,
    head: Annotated[str, typer.Option(help="token-classification or text-to-text.")] = "token-classification",
    max_length: Annotated[int, typer.Option(min=8, help="Subword tokens of a sentence.")] = 128,
) -> None:
    """Read and check every data set of a task file, and show a table of what is there."""
    from hyperloader.data.report import report
    from hyperloader.data.tasks import load_tasks

    tasks = load_tasks(task_file)
    print(report(tasks, _formulation(tasks, backbone, head, max_length) if backbone else None))


def _formulation(tasks, backbone: str, head: str, max_length: int):
    from hyperloader.data.text_to_text import TextToText
    from hyperloader.data.token_classification import TokenClassification
    from hyperloader.training.backbone import load_backbone

    _, tokenizer = load_backbone(backbone, head)
    if head == "text-to-text":
        return TextToText(tokenizer, [task.name for task in tasks], max_length=max_length)
    return TokenClassification(tokenizer, {task.name: task.labels for task in tasks}, max_length=max_length)
