"""Folders of parallel files: ``seq.in`` with the words of a sentence on a line, ``seq.out`` with their tags."""

from collections.abc import Iterator
from pathlib import Path

from hyperloader.data.records import Reading, Record, make_record
from hyperloader.data.sentence import DataError
from hyperloader.data.text_files import read_text

WORDS, TAGS = "seq.in", "seq.out"


def read_parallel(folder: Path, how: Reading) -> Iterator[Record]:
    """The sentences of a folder with ``seq.in`` and ``seq.out``. Lines that are empty in both are skipped; a file
    ``label`` (one intent a sentence) is not read.

    Raises:
        DataError: a missing file, unequal numbers of lines, or of words and tags on a line.
    """
    path = folder / WORDS
    lines = _lines(path, how)
    tags = _lines(folder / TAGS, how) if how.labelled else [None] * len(lines)
    if len(tags) != len(lines):
        raise DataError(
            f"{path}: {WORDS} and {TAGS} must have equally many lines, got {len(lines):,} and {len(tags):,}; "
            "repair the shorter one"
        )
    for number, (line, tag_line) in enumerate(zip(lines, tags, strict=True), 1):
        if not line and not tag_line:
            continue
        yield make_record(line, tag_line if how.labelled else None, str(path), number, labelled=how.labelled)


def _lines(path: Path, how: Reading) -> list[list[str]]:
    text, notes = read_text(path)
    how.notes += notes
    lines = [line.split() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines
