"""Ctrl-C and SIGTERM, where the process is the command ``hyperloader``: one line, and never a traceback.

While the command works, the first signal is an exception, so that everything ends in order; before (packages are being
imported, the command line is parsed), afterwards, and when it comes a second time, the process ends at once.
"""

import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from hyperloader import processes

WORDS: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


class _State:
    first: int | None = None  # the signal that has come
    working = False
    said = False
    saying = False
    hint: Callable[[], str] = staticmethod(lambda: "")


def is_command() -> bool:
    """Whether this process is ``hyperloader ...`` or ``python -m hyperloader.cli ...``, and not a program that imports
    the package."""
    words = getattr(sys, "orig_argv", [])
    return os.path.basename(sys.argv[0] if sys.argv else "") in ("hyperloader", "hyperloader.exe") or any(
        pair == ("-m", "hyperloader.cli") for pair in itertools.pairwise(words)
    )


def handle_in_command() -> None:
    """Take over both signals if the process is the command; one that is ignored, as under ``nohup``, stays ignored."""
    if not is_command():
        return
    for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) == default:
            signal.signal(number, _received)


def working(now: bool) -> None:
    """Say that the command begins its work, or has ended it."""
    _State.working = now


def hint(what: Callable[[], str]) -> None:
    """Set what is said besides when the command is ended: a function, called only then."""
    _State.hint = what


def status(interrupt: KeyboardInterrupt) -> int:
    """The exit status: 143 after SIGTERM, 130 after Ctrl-C."""
    return 128 + _number(interrupt)


def say(interrupt: KeyboardInterrupt) -> None:
    """Write the line that stands for the end of a command, once; of several processes one writes it."""
    _say(_number(interrupt), str(interrupt))


def _number(interrupt: KeyboardInterrupt) -> int:
    return signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT


def say_first(line: str) -> None:
    """Write ``line``, or which of several processes have died; one of them does, and no signal ends it meanwhile."""
    _State.saying = True
    try:
        if processes.speaks_first():
            print(_died() or line, file=sys.stderr, flush=True)
    finally:
        _State.saying = False


def _died() -> str:
    dead = processes.died()
    if not dead:
        return ""
    who, hint = f"process{'es' if len(dead) > 1 else ''} {', '.join(map(str, dead))}", _State.hint()
    how = "died without a word, killed from outside or for want of memory"
    return f"error: {who} of {processes.process_count()} {how}{f'; {hint}' if hint else ''}"


def _say(number: int, what: str) -> None:
    if not _State.said:
        say_first(f"\n{WORDS[number]}{f'; {what}' if what else ''}")
    _State.said = True


def _received(number: int, frame: Any) -> None:
    if _State.saying:
        return  # it is about to end
    again, _State.first = _State.first is not None, _State.first or number
    if _State.working and not again:
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
    if _State.working:
        _say(_State.first, _State.hint())
    elif not again:
        _say(number, "")
    os._exit(128 + _State.first)


handle_in_command()
