"""All commands. A new one is a file with a function, and one line in the table."""

import functools
from collections.abc import Callable
from typing import Annotated, Any

import typer

import hyperloader
from hyperloader.cli.backbones import backbones
from hyperloader.cli.check import check
from hyperloader.cli.convert import convert
from hyperloader.cli.demo import demo
from hyperloader.cli.env import env
from hyperloader.cli.errors import OneLineErrors
from hyperloader.cli.evaluate import evaluate
from hyperloader.cli.export import export
from hyperloader.cli.inspect import inspect
from hyperloader.cli.predict import predict
from hyperloader.cli.push import push
from hyperloader.cli.search import search
from hyperloader.cli.serve import serve
from hyperloader.cli.train import train
from hyperloader.processes import process_count

COMMANDS: dict[str, Callable[..., Any]] = {
    "train": train,
    "search": search,
    "evaluate": evaluate,
    "predict": predict,
    "serve": serve,
    "inspect": inspect,
    "export": export,
    "push": push,
    "demo": demo,
    "backbones": backbones,
    "env": env,
    "data check": check,
    "data convert": convert,
}
GROUPS = {"data": "Check and convert data sets."}
TOGETHER = ("train", "evaluate", "predict", "env")  # which several processes may run at once


def _alone(words: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, refused where several processes call it; only then, since its help is for all."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if process_count() > 1:
            raise ValueError(f"{words} must run in one process, got {process_count()}; start it without torchrun")
        return function(*arguments, **options)

    return call


app = typer.Typer(cls=OneLineErrors, add_completion=False, pretty_exceptions_enable=False)
groups = {"": app, **{name: typer.Typer(help=text) for name, text in GROUPS.items()}}
for name, group in groups.items():
    if name:
        app.add_typer(group, name=name)
for words, function in COMMANDS.items():
    group_name, _, command_name = words.rpartition(" ")
    groups[group_name].command(command_name)(function if words in TOGETHER else _alone(words, function))


def _version(asked: bool) -> None:
    if asked:
        print(f"hyperloader {hyperloader.__version__}")
        raise typer.Exit


@app.callback()
def hyperloader_command(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; works anywhere.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """One frozen transformer, many tasks."""
