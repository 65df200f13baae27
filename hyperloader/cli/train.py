"""``hyperloader train``: one model for all tasks of a YAML file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyperloader.cli.dry_run_report import dry_run_and_report
from hyperloader.cli.training_report import train_and_report

if TYPE_CHECKING:
    from hyperloader.training.run_config import RunConfig


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
    dry_run: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="STEPS",
            help="Take so many steps, keep nothing, and say how long the training would take here and on a GPU.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train, score on the test sets, and leave metrics.json, plots and the best weights in the output folder.

    An option here goes before the same key in the file.
    """
    from hyperloader.training.run_config import RunConfig

    named = {"output": output, "method": method, "preset": preset, "seed": seed}
    config = RunConfig.from_yaml(config_file)
    changes = {key: value for key, value in named.items() if value is not None}
    config = override(config, changes, set_ or [])
    if dry_run is None:
        train_and_report(config, resume)
    elif resume:
        raise ValueError("--resume must not be given with --dry-run, which keeps nothing")
    else:
        dry_run_and_report(config, dry_run)


def override(config: "RunConfig", changes: dict, assignments: list[str]) -> "RunConfig":
    """``config`` with ``changes`` and with assignments as ``training.steps=500``, whose values are YAML."""
    import yaml

    from hyperloader.data.yaml_text import load

    values = list(changes.items())
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ValueError(f"--set must have the form KEY=VALUE, got {assignment!r}")
        try:
            values.append((key, load(text)))
        except yaml.YAMLError:
            raise ValueError(f"--set must have a YAML value, got {assignment!r}") from None
    return config.with_values(values, source="command line") if values else config
