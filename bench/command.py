"""What the commands of this folder have in common: errors, devices, options."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench import document, results
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


def device(argument: str, name: str) -> torch.device:
    """The device ``name``; raises ``UsageError``, which names the ``argument``, where there is none."""
    if name not in ("cpu", "cuda"):
        raise UsageError(f"{argument} must be cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"{argument} must be cpu here, got 'cuda': PyTorch sees no GPU")
    return torch.device(name)


def parsed(
    parser: argparse.ArgumentParser,
    words: Sequence[str] | None,
    mark: str,
    file: Path,
    page: Path,
    check: Callable[[argparse.Namespace], None] = lambda given: None,
) -> argparse.Namespace:
    """The options of a command that measures into ``--file`` and puts what it holds between the marks of
    ``--document``, with ``--report`` without measuring; both are looked at before anything is measured.

    Args:
        parser: has the command's own options.
        file, page: what ``--file`` and ``--document`` are where they are not given.
        check: looks at the command's own options, before anything is written.
    """
    parser.add_argument("--file", type=Path, default=file)
    parser.add_argument("--document", type=Path, default=page, help="with the marks")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    given = parser.parse_args(words)
    check(given)
    document.check(given.document, mark)
    if not given.report:
        results.writable(given.file.parent, "the folder of --file")
    return given
