"""``hyperloader data check``: what a task file names, counted and checked."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyperloader.cli.table import table

if TYPE_CHECKING:
    from hyperloader.data.formulation import Formulation
    from hyperloader.data.tasks import Task


def check(
    task_file: Annotated[Path, typer.Argument(help="YAML file with `tasks:`, or that of a run.", metavar="TASKS.yaml")],
    backbone: Annotated[
        str | None, typer.Option(help="Also count what its tokenizer splits: a folder, a model of the Hub, or minilm.")
    ] = None,
    head: Annotated[
        str, typer.Option(help="token-classification, text-to-text or language-model.")
    ] = "token-classification",
    max_length: Annotated[int, typer.Option(min=8, help="Subword tokens of a sentence.")] = 128,
) -> None:
    """Read and check every data set of a task file, and show a table of what is there."""
    from hyperloader.data.heads import HEADS
    from hyperloader.data.tasks import load_tasks
    from hyperloader.training.backbone import backbone_path
    from hyperloader.training.compiling import check_compiler
    from hyperloader.training.run_config import RunConfig
    from hyperloader.validation import check_choice

    if task_file.is_dir():
        example = f"tasks: [{{name: NAME, path: {task_file}}}]"
        raise ValueError(f"{task_file}: must be a YAML file such as {example}, got a folder")
    check_choice("head", head, HEADS)
    if backbone is not None:
        backbone_path(backbone)
    of_run = task_file.is_file() and any(
        line.startswith("backbone:") for line in task_file.read_text(encoding="utf-8", errors="replace").splitlines()
    )
    if of_run:
        config = RunConfig.from_yaml(task_file)
        if config.options.compile:
            check_compiler()
        tasks = config.load_tasks()
    else:
        tasks = load_tasks(task_file)
    print(summary(tasks, _formulation(tasks, backbone, head, max_length) if backbone else None))


def summary(tasks: list["Task"], formulation: "Formulation | None" = None) -> str:
    """The counts of every split as a table, below it how the files were read, and the tasks' warnings."""
    from hyperloader.data.report import report_rows

    rows = report_rows(tasks, formulation)
    header = [column.replace("_", " ") for column in rows[0]]
    notes = [f"note: {note}" for task in tasks for note in task.notes]
    warnings = [f"warning: {warning}" for task in tasks for warning in task.warnings]
    return "\n".join([table(header, [tuple(row.values()) for row in rows]), *notes, *warnings])


def _formulation(tasks: list["Task"], backbone: str, head: str, max_length: int) -> "Formulation":
    from hyperloader.data.heads import TOKEN_CLASSIFICATION, make_formulation
    from hyperloader.data.wording import TextModel
    from hyperloader.training.backbone import load_backbone

    model, tokenizer = load_backbone(backbone, head)
    labels, kinds = {task.name: task.labels for task in tasks}, {task.name: task.kind for task in tasks}
    text_model = None if head == TOKEN_CLASSIFICATION else TextModel.of(model.config)
    return make_formulation(head, tokenizer, labels, max_length, kinds=kinds, text_model=text_model)
