"""``hyperloader inspect``: what a trained run's hypernetwork generates, and whether it uses the tasks' names."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyperloader.cli.table import scored_by, table
from hyperloader.training.headlines import headline, mean_name, mean_of

if TYPE_CHECKING:
    from torch import Tensor

TASKS, LAYERS, NUMBERS = "tasks.png", "layers.png", "inspect.json"
_NEGLIGIBLE = 1.0  # points, about what chance brings


def inspect(
    run_folder: Annotated[Path, typer.Argument(help="Output folder of `hyperloader train`.", metavar="RUN_FOLDER")],
    output: Annotated[
        Path | None, typer.Option(help="Folder for heat maps and numbers; RUN_FOLDER/inspect if not given.")
    ] = None,
    split: Annotated[str, typer.Option(help="For the control: train, validation or test.")] = "validation",
    limit: Annotated[int, typer.Option(min=1, help="Sentences of every task, at most, in the control.")] = 200,
) -> None:
    """Show norms and similarities of the generated weights, and scores with every task's name and with another's."""
    from hyperloader.checkpoints.atomic import write_text
    from hyperloader.data.tasks import SPLITS
    from hyperloader.training import inspection
    from hyperloader.training.saved_run import load_run, scorer
    from hyperloader.validation import check_choice

    check_choice("split", split, SPLITS)
    output = run_folder / "inspect" if output is None else output
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output must be a folder, got the file {output}")
    run = load_run(run_folder)
    model = run.hyperloader
    if model is None:
        raise ValueError(
            f"{run_folder}: method must be hyperloader, hyperformer++ or adapter to be inspected, got "
            f"{run.config.method}, which generates no weights"
        )
    score = scorer(run, run.config.load_tasks(), split, limit)
    weights = inspection.all_weights(model)
    norms = inspection.norms(weights)
    tasks, layers = inspection.task_similarity(weights), inspection.layer_similarity(weights)
    control = inspection.control(model, score)

    output.mkdir(parents=True, exist_ok=True)
    numbers = {
        "norms": norms,
        "task_similarity": {name: _plain(matrix) for name, matrix in tasks.items()},
        "layer_similarity": {" ".join(key): _plain(matrix) for key, matrix in layers.items()},
        "control": control and {**control, "split": split, "limit": limit},
    }
    plots = draw(tasks, layers, run.tasks, output)
    write_text(output / NUMBERS, json.dumps(numbers, ensure_ascii=False, indent=1))
    count = f"{len(run.tasks):,} task{'s' if len(run.tasks) > 1 else ''}"
    print(f"{run_folder}: what {run.config.method} generates for {count}\n")
    print(norms_table(norms))
    print("\nCosine similarity of what is generated (1: the same for all; -: zero everywhere or alone)\n")
    print(similarity_table(tasks, layers))
    words = "names" if model.hyperloader_config.descriptions is None else "descriptions"
    print(f"\n{conclusion(control, split, limit, words)}\n")
    for path in (*plots, output / NUMBERS):
        print(f"{'plot   ' if path in plots else 'numbers'}  {path}")


def norms_table(norms: list[dict]) -> str:
    """Norms by stack, site and weight."""
    header = ("stack", "site", "weight", "mean norm", "smallest", "largest")
    return table(header, [tuple(row.values()) for row in norms], digits=4)


def similarity_table(tasks: dict, layers: dict) -> str:
    """Mean similarity of two tasks and of two layers, by weight."""
    from hyperloader.training.inspection import between

    stacks = list(dict.fromkeys(stack for stack, _ in layers))
    header = ("weight", "two tasks", *(f"two layers ({stack})" for stack in stacks))
    nothing = float("nan")
    rows = [
        (
            name,
            between(matrix),
            *(between(layers[stack, name]) if (stack, name) in layers else nothing for stack in stacks),
        )
        for name, matrix in tasks.items()
    ]
    return table(header, rows, digits=3)


def conclusion(control: dict | None, split: str, limit: int, words: str = "names") -> str:
    """The control's scores by task, and what they say; shuffled are the tasks' ``words``: names or descriptions."""
    if control is None:
        return f"Control: none, a run of one task has no {words} to shuffle."
    right, wrong = control["right"], control["shuffled"]
    keys = {task: headline(scores) for task, scores in right["tasks"].items()}
    rows = [
        (task, 100 * right["tasks"][task][keys[task]], 100 * wrong["tasks"][task][keys[task]], other)
        for task, other in control["others"].items()
    ]
    total = ("mean", 100 * mean_of(right), 100 * mean_of(wrong), "")
    falls, score = 100 * (mean_of(right) - mean_of(wrong)), mean_name(right).removeprefix("mean ")
    verdict = f"Mean {score} falls by {falls:.1f} points when the {words} are shuffled" + (
        f": this model hardly uses its tasks' {words}." if falls < _NEGLIGIBLE else "."
    )
    return (
        f"Control: {scored_by(right)}, {split}, at most {limit:,} sentences a task\n\n"
        + table(("task", f"{score} %", f"shuffled {score} %", "with the weights of"), rows, total=total)
        + f"\n\n{verdict}"
    )


def draw(tasks: dict, layers: dict, names: list[str], folder: Path) -> list[Path]:
    """The heat maps as PNG files in ``folder``: tasks by tasks, layers by layers, a panel a weight."""
    from hyperloader.training.plots import heat_maps

    paths = [folder / TASKS, folder / LAYERS]
    heat_maps(
        {name: (names, matrix.tolist()) for name, matrix in tasks.items()},
        paths[0],
        title="Similarity of generated weights: tasks",
    )
    heat_maps(
        {" ".join(key): ([str(n) for n in range(len(matrix))], matrix.tolist()) for key, matrix in layers.items()},
        paths[1],
        title="Similarity of generated weights: layers",
    )
    return paths


def _plain(matrix: "Tensor") -> list[list[float | None]]:
    return [[None if math.isnan(value) else value for value in row] for row in matrix.tolist()]
