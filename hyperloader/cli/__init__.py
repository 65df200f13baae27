"""The command ``hyperloader``: one file a command, registered in ``commands.py``."""

import sys

from hyperloader.cli.missing import missing_package


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
