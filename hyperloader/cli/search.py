"""``hyperloader search``: which values of a run's keys are best on validation."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hyperloader.cli.search_report import search_and_report
from hyperloader.cli.train import override


def search(
    config_file: Annotated[Path, typer.Argument(help="YAML file of the run.", metavar="RUN.yaml")],
    over: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE,...",
            help="A key, as --set takes it, and the values to try, as training.learning_rate=1e-3,3e-3; repeat.",
        ),
    ],
    trials: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Train so many combinations, chosen by Optuna; all of them if not given.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(help="Folder of the search; if not given that of the run, with -search.", show_default=False),
    ] = None,
    method: Annotated[str | None, typer.Option(help="hyperloader, hyperformer++, adapter, lora or full.")] = None,
    preset: Annotated[str | None, typer.Option(help="default or published.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of new weights, dropout and Optuna's choices.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other key, as training.steps=500; repeat."),
    ] = None,
) -> None:
    """Train a run with listed values of its keys, and compare them on validation; test sets are not scored.

    The same command goes on with a search that was interrupted; with other values it adds to it.
    """
    from hyperloader.training.run_config import RunConfig
    from hyperloader.training.search_space import search_space

    named = {"method": method, "preset": preset, "seed": seed, "output": output}
    changes = {key: value for key, value in named.items() if value is not None}
    config = override(RunConfig.from_yaml(config_file), changes, set_ or [])
    listed = _listed(over, [*changes, *(one.partition("=")[0] for one in set_ or [])])
    space = search_space(config, listed)
    folder = Path(config.output if output else f"{config.output}-search")
    changes.pop("output", None)
    same = [str(config_file), *(word for key, value in changes.items() for word in (f"--{key}", str(value)))]
    same += [word for one in set_ or [] for word in ("--set", one)]
    words = [*same, *(word for one in over for word in ("--over", one))]
    words += ["--trials", str(trials)] if trials else []
    words += ["--output", output] if output else []
    search_and_report(space, folder, trials, same, f"go on with: {shlex.join(['hyperloader', 'search', *words])}")


def _listed(over: Sequence[str], given: Sequence[str]) -> dict[str, list]:
    """Of every key its values; ``given`` are keys that have one value by other options."""
    import yaml

    from hyperloader.data.yaml_text import load

    found: dict[str, list] = {}
    for one in over:
        key, equals, text = one.partition("=")
        if not equals or not key:
            raise ValueError(f"--over must have the form KEY=VALUE,VALUE, got {one!r}")
        if key in found:
            raise ValueError(f"--over must name a key once, got {key!r} twice; list all its values in one")
        if key in given:
            raise ValueError(f"--over must name keys that no other option gives a value, got {key!r}")
        try:
            found[key] = load(f"[{text}]")
        except yaml.YAMLError:
            raise ValueError(f"--over must list YAML values with commas between them, got {one!r}") from None
    return found
