"""The command ``hyperloader``: one file a command, registered in ``commands.py``."""

import sys

INSTALL = "pip install 'hyperloader[train]'"
TRAIN_PACKAGES = (
    "accelerate",
    "datasets",
    "matplotlib",
    "numpy",
    "rich",
    "safetensors",
    "seqeval",
    "tokenizers",
    "transformers",
    "typer",
    "yaml",
)


def missing_package(error: ModuleNotFoundError) -> str:
    """One line: which package is not installed, and what installs it."""
    package = (error.name or str(error)).partition(".")[0]
    install = INSTALL if package in TRAIN_PACKAGES else f"pip install {package}"
    return f"error: the package {package} is not installed; run: {install}"


def main() -> None:
    """The console script. Without the packages of the extra ``train`` it says what installs them; ``env`` works
    anyway."""
    try:
        from hyperloader.cli.commands import app
    except ModuleNotFoundError as error:
        if sys.argv[1:] == ["env"]:
            from hyperloader.cli.env import report

            print(report())
            return
        print(missing_package(error), file=sys.stderr)
        raise SystemExit(1) from None
    app(prog_name="hyperloader")
