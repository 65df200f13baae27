"""What a reader hands on: words and tags as they stand in a file, checked for all but the tags' scheme."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hyperloader.data.sentence import DataError, check_words


@dataclass(frozen=True, slots=True)
class Record:
    """One sentence of a file.

    tokens: the words. tags: one a word, as text or as numbers, in the file's own scheme; none where none were asked
    for. path, line: where the sentence starts. lines: the line of every word, where words have lines of their own.
    """

    tokens: tuple[str, ...]
    tags: tuple[Any, ...]
    path: str
    line: int
    lines: tuple[int, ...] = ()

    def where(self, position: int | None = None) -> str:
        """``FILE:LINE`` of the sentence, or of the word at ``position`` (from 0)."""
        return f"{self.path}:{self.lines[position] if self.lines and position is not None else self.line}"


@dataclass
class Reading:
    """How a file is read, and what was met on the way.

    columns: which column or key holds what, where it is not the format's own. labelled: whether tags are needed; else
    they are not looked at. numbered: whether tags are numbers. repair: whether spans that cut a word or overlap are
    put right. notes: what a user should know. counted: what was met, with the first FILE:LINE of each and how often.
    span_faults: (FILE:LINE, fault) of spans in running text; spans: how many there were.
    """

    columns: Mapping[str, str | int] = field(default_factory=dict)
    labelled: bool = True
    numbered: bool = False
    repair: bool = False
    notes: list[str] = field(default_factory=list)
    counted: dict[str, tuple[str, int]] = field(default_factory=dict)
    span_faults: list[tuple[str, str]] = field(default_factory=list)
    spans: int = 0

    def count(self, what: str, where: str) -> None:
        """Count something met at ``where``."""
        first, times = self.counted.get(what, (where, 0))
        self.counted[what] = first, times + 1


def make_record(
    tokens: Sequence, tags: Sequence | None, path: str, line: int, lines: tuple[int, ...] = (), *, labelled: bool = True
) -> Record:
    """A record of checked words. Raises DataError for whatever ``make_sentence`` refuses but the tags' scheme."""
    where = Record((), (), path, line, lines).where
    if labelled and tags is None:
        raise DataError(f"{where()}: tags must be a list of text, got null; give every token one tag")
    check_words(tokens, tags if labelled else None, where)
    return Record(tuple(tokens), tuple(tags or ()) if labelled else (), path, line, lines)
