"""What every command of this folder does with an error."""

import sys
from collections.abc import Callable

from bench.results import UsageError


def run(main: Callable[[], int | None]) -> int:
    """The exit status of ``main``: what its user has to change becomes one line and 2, another error goes through."""
    try:
        return main() or 0
    except UsageError as error:
        line = str(error)
    except Exception as error:
        from hyperloader.cli import errors

        line, status = errors.describe(error)
        if status == errors.UNEXPECTED:
            raise
        line = line.removeprefix("error: ")
    print(f"bench: {line}", file=sys.stderr)
    return 2
