"""Every error becomes one line on stderr and an exit status."""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from hyperloader import processes, signals
from hyperloader.cli.missing import missing_package

BAD_INPUT, BAD_USAGE, UNEXPECTED, INTERRUPTED = 1, 2, 70, 130
_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep


class OneLineErrors(TyperGroup):
    """Commands whose errors are one line on stderr: exit status 1 for bad input, 2 for a bad command line, 70 for an
    unexpected error, 130 after Ctrl-C, 143 after SIGTERM. ``--debug``, before or after the command, lets the traceback
    through."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        args = list(sys.argv[1:] if args is None else args) or ["--help"]
        debug = "--debug" in args
        args = [word for word in args if word != "--debug"]
        try:
            with processes.main_alone_prints():
                status = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except Exception as error:
            if debug:
                raise
            line, status = describe(error)
            signals.say_first(_named(line) if status == UNEXPECTED else line)
        if standalone_mode:
            sys.exit(status)
        return status

    def invoke(self, ctx: Any) -> Any:
        try:
            processes.announce()
            signals.working(True)  # only now: while the command line is parsed, typer takes every signal for Ctrl-C
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, where a reader that has left is no error
            processes.leave_others()
            return result
        except KeyboardInterrupt as interrupt:
            signals.say(interrupt)
            raise typer.Exit(signals.status(interrupt)) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains while it closes stdout
            raise typer.Exit(BAD_INPUT) from None
        finally:
            signals.working(False)


def describe(error: Exception) -> tuple[str, int]:
    """The line that stands for an error, and the exit status."""
    if hasattr(error, "format_message"):  # typer's own, about the command line
        context = getattr(error, "ctx", None)
        see = f" (see: {context.command_path} --help)" if context else ""
        return _line(f"error: {error.format_message()}{see}"), BAD_USAGE
    if isinstance(error, typer.Abort):
        return "interrupted", INTERRUPTED
    if isinstance(error, ModuleNotFoundError):
        return missing_package(error), BAD_INPUT
    if isinstance(error, OSError) and error.strerror:
        names = " and ".join(str(name) for name in (error.filename, error.filename2) if name)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = f"the disk is full ({error.strerror}); make room and run the command again" if full else error.strerror
        return _line(f"error: {names + ': ' if names else ''}{reason}"), BAD_INPUT
    if isinstance(error, OSError) or (
        isinstance(error, ValueError | TypeError | RuntimeError | ImportError) and _ours(error)
    ):
        return _line(f"error: {error}"), BAD_INPUT
    return _line(f"unexpected {type(error).__name__}: {error}; run with --debug for the traceback"), UNEXPECTED


def _named(line: str) -> str:
    """``line``, with which of several processes says it where they have begun to work together."""
    number = processes.number_among_others()
    return line if number is None else f"{line} (process {number} of {processes.process_count()})"


def _ours(error: Exception) -> bool:
    """Whether this package raised the error, and not something below it."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and str(Path(frames[-1].filename).resolve()).startswith(_PACKAGE)


def _line(text: str) -> str:
    return " ".join(text.split())
