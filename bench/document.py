"""The parts of documents that commands write."""

import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from bench.results import UsageError
from hyperloader.checkpoints.atomic import write_text

ROOT = Path(__file__).resolve().parents[1]
README, RESULTS, SPEED = ROOT / "README.md", ROOT / "docs" / "results.md", ROOT / "docs" / "speed.md"
CUDA = ROOT / "docs" / "cuda.md"


def put(document: Path, name: str, text: str) -> None:
    """Put ``text`` between the marks ``<!-- name: begin -->`` and ``<!-- name: end -->`` of ``document``, and print it.

    Raises:
        UsageError: a document that is not there or has no such marks; it is left as it is.
    """
    check(document, name)
    begin, end = _marks(name)
    head, rest = document.read_text(encoding="utf-8").split(begin, 1)
    write_text(document, f"{head}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}")
    print(text)


def check(document: Path, name: str) -> None:
    """Raise ``UsageError`` unless ``document`` has the marks ``name``."""
    begin, end = _marks(name)
    if not document.is_file():
        raise UsageError(f"{document}: no such file; it must be a document with the marks {begin} and {end}")
    before = document.read_text(encoding="utf-8")
    if begin not in before or end not in before.partition(begin)[2]:
        raise UsageError(f"{document}: must hold the marks {begin} and {end}, in this order")


def link(document: Path, target: Path) -> str:
    """The address of the file ``target`` in a link of ``document``."""
    return Path(os.path.relpath(target.resolve(), document.resolve().parent)).as_posix()


def mean_and_range(numbers: Sequence[float]) -> str:
    """Markdown: the mean, behind it the least and the most of several; empty for none."""
    if not numbers:
        return ""
    span = f" ({min(numbers):.1f} to {max(numbers):.1f})" if len(numbers) > 1 else ""
    return f"**{statistics.mean(numbers):.1f}**{span}"


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
