"""`hyperloader train`: one model for all tasks of a YAML file."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyperloader import signals
from hyperloader.cli.table import scores_table

if TYPE_CHECKING:
    from hyperloader.training.run_config import RunConfig

LEARNING_CURVE, PER_TASK = "learning-curve.png", "per-task.png"
SECTIONS = ("model", "training")


def train(
    config_file: Annotated[Path, typer.Argument(help="YAML file of the run.", metavar="CONFIG.yaml")],
    output: Annotated[str | None, typer.Option(help="Folder of the run.")] = None,
    method: Annotated[str | None, typer.Option(help="hyperloader, hyperformer++, adapter, lora or full.")] = None,
    preset: Annotated[str | None, typer.Option(help="default or published.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of new weights and dropout.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any other key, as training.steps=500 or model.rank=4; repeat."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the output.")] = False,
) -> None:
    """Train, score on the test sets, and leave metrics.json, plots and the best weights in the output folder.

    An option here goes before the same key in the file.
    """
    from hyperloader.training.run_config import RunConfig

    named = {"output": output, "method": method, "preset": preset, "seed": seed}
    config = RunConfig.from_yaml(config_file)
    changes = {key: value for key, value in named.items() if value is not None}
    config = override(config, changes, set_ or [])
    train_and_report(config, resume)


def override(config: "RunConfig", changes: dict, assignments: list[str]) -> "RunConfig":
    """`config` with `changes` and with assignments as `training.steps=500`, whose values are YAML."""
    import yaml

    from hyperloader.data.yaml_text import load
    from hyperloader.training.run_config import RunConfig

    values = config.to_dict() | changes
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ValueError(f"--set must have the form KEY=VALUE, got {assignment!r}")
        try:
            value = load(text)
        except yaml.YAMLError:
            raise ValueError(f"--set must have a YAML value, got {assignment!r}") from None
        section, dot, name = key.partition(".")
        if not dot:
            values[key] = value
        elif section in SECTIONS:
            values[section] = {**values[section], name: value}
        else:
            raise ValueError(f"--set must have a key of {' or '.join(SECTIONS)} before the dot, got {assignment!r}")
    return RunConfig.from_dict(values, source="command line") if changes or assignments else config


def train_and_report(config: "RunConfig", resume: bool, *, title: str = "Test F1 by task") -> None:
    """Train with a progress bar, draw the plots, print the table; of several processes the first one prints.

    Without a terminal, and into a pipe, every evaluation is a line.

    Raises:
        KeyboardInterrupt: with the command that resumes the run.
    """
    from hyperloader.training.requirements import check_requirements
    from hyperloader.training.run import train as train_run

    output, speaks = shown(Path(config.output)), os.environ.get("RANK", "0") == "0"
    if speaks:
        check_requirements(config)
        announce(config, output)
    bar = sys.stderr.isatty()
    signals.hint(lambda: how_to_resume(output))
    try:
        metrics = train_run(config, resume=resume, progress=bar, lines=not (bar and sys.stdout.isatty()))
    except KeyboardInterrupt as interrupt:
        raise type(interrupt)(how_to_resume(output)) from None
    if metrics["test"] is None:
        raise ValueError(f"{output}: the run was a search without test scores; run: hyperloader evaluate {output}")
    if speaks:
        plots = draw(metrics, output, title)
        print(conclusion(metrics, output, plots, title))


def shown(path: Path) -> Path:
    """`path` as a user would write it: from the working directory, where that holds it."""
    path = Path(os.path.abspath(path))
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def how_to_resume(output: Path) -> str:
    """What a user who has ended a training should know."""
    saved = output / "config.yaml"
    command = shlex.join(["hyperloader", "train", str(saved), "--resume"])
    return f"resume with: {command}" if saved.is_file() else "nothing was saved yet"


def announce(config: "RunConfig", output: Path) -> None:
    """Print what is going to happen, and what a user should know about the data."""
    from hyperloader.training.progress import process_count, size_of_a_step

    options = config.options
    size = size_of_a_step(options, process_count())
    print(f"{config.method} on {config.backbone}: {options.steps:,} steps, {size}, to {output}")
    sys.stdout.flush()
    if not (output / "metrics.json").exists():
        for task in config.load_tasks():
            for note in task.notes:
                print(f"note: {note}", file=sys.stderr)
            for warning in task.warnings:
                print(f"warning: {warning}", file=sys.stderr)


def conclusion(metrics: dict, output: Path, plots: list[Path], title: str) -> str:
    """The table of scores and where everything lies."""
    steps, seconds = metrics["steps"], metrics["seconds_per_step"]
    return "\n".join(
        (
            f"\n{title} (micro-F1 over spans), weights of step {metrics['best_step']:,}\n",
            scores_table(metrics["test"]),
            f"\ntrained  {metrics['trainable_parameters']:,} parameters in {steps:,} steps"
            + (f" of {seconds:.2f} s" if seconds else ""),
            *encoding_notes(metrics),
            f"model    {output / 'best'}",
            f"metrics  {output / 'metrics.json'}",
            *(f"plot     {plot}" for plot in plots),
        )
    )


def encoding_notes(metrics: dict) -> list[str]:
    """What did not fit into `max_length` tokens, over all sentences that the run has encoded; nothing if all did."""
    counts = list(metrics["encoding"].values())
    length = metrics["config"]["training"]["max_length"]
    sentences = sum(one["sentences"] for one in counts)
    notes = {
        "split_sentences": f"of {sentences:,} sentences do not fit and were split into windows",
        "cut_words": "words are longer than a window: their first tokens were kept",
        "no_subwords": "words have no token and were labelled O",
        "long_targets": "targets are longer: a model cannot write their end",
    }
    found = {name: sum(one[name] for one in counts) for name in notes}
    return [f"encoded  with {length} tokens: {found[name]:,} {note}" for name, note in notes.items() if found[name]]


def draw(metrics: dict, folder: Path, title: str) -> list[Path]:
    """The learning curve and the scores by task as PNG files in `folder`."""
    from hyperloader.training.plots import learning_curve, per_task_bars

    curve, bars = folder / LEARNING_CURVE, folder / PER_TASK
    name = f"{metrics['method']}, {metrics['trainable_parameters']:,} trained parameters"
    learning_curve(metrics["learning_curve"], curve, title=f"Learning curve: {name}")
    scores = {task: one["f1"] for task, one in metrics["test"]["tasks"].items()}
    per_task_bars(scores, bars, title=f"{title}: {name}")
    return [curve, bars]
