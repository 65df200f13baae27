"""CoNLL columns: one word a line, blank lines between sentences."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hyperloader.data.column_layout import Layout, Row, guess_layout, is_tag_like
from hyperloader.data.records import Reading, Record, make_record
from hyperloader.data.sentence import DataError, describe_character

_ASCII_SPACE = " \t\r\f\v"


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that is not blank: its number, its text, and the number of its sentence."""

    number: int
    text: str
    sentence: int


def read_columns(text: str, path: str, how: Reading) -> Iterator[Record]:
    """The sentences of a file of columns (format: ``read_split``)."""
    lines = _lines(text)
    shown = [line for line in lines if not line.text.startswith("#") or _is_tabbed_word(line.text, how)] or [
        line for line in lines if is_tag_like(_split(line.text)[-1], how)
    ]
    if not shown:
        return
    width = _width(shown[0], path, how)
    split = [(line, _split(line.text, width)) for line in shown]
    layout = guess_layout([Row(line.number, line.sentence, columns) for line, columns in split], path, width, how)
    rows: list[tuple[int, str, str]] = []
    comments = skipped = 0
    sentence = 0
    for line in lines:
        if line.sentence != sentence and rows:
            yield _record(rows, path, how)
            rows = []
        sentence = line.sentence
        columns = _split(line.text, width)
        if line.text.startswith("#") and not _is_row(columns, layout, width, how):
            _check_comment(columns, line, path, inside=bool(rows) and len(columns) == width)
            comments += 1
            continue
        if line.number == layout.header_line:
            continue
        if len(columns) != width:
            raise DataError(
                f"{path}:{line.number}: the line has {len(columns)} columns where the first has {width}"
                f"{_odd_space(line.text)}; write as many on every line, and an empty line between sentences"
            )
        if layout.skips(columns):
            skipped += 1
            continue
        rows.append((line.number, columns[layout.token], columns[layout.tag] if layout.tag is not None else ""))
    if rows:
        yield _record(rows, path, how)
    name = path.rpartition("/")[2]
    if comments:
        how.notes.append(f"{name}: comment lines (#) skipped: {comments:,}")
    if skipped:
        how.notes.append(f"{name}: lines numbered as a range (3-4) or an empty node (3.1) skipped: {skipped:,}")


def _lines(text: str) -> list[_Line]:
    """The lines that hold something. Blank lines, ``-DOCSTART-`` and ``#begin document`` end a sentence."""
    lines, sentence = [], 0
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.rstrip("\r")
        if not line.strip() or _is_document(line):
            sentence += 1
        else:
            lines.append(_Line(number, line, sentence))
    return lines


def _is_document(line: str) -> bool:
    columns = line.split()
    return columns[0] == "-DOCSTART-" or (columns[0] in ("#begin", "#end") and columns[1:2] == ["document"])


def _split(line: str, width: int | None = None) -> list[str]:
    """Columns: parted by tabs if there are any, else by spaces; by other white space only where that makes
    ``width``."""
    if "\t" in line:
        return [column.strip() for column in line.split("\t")]
    columns = [column for column in re.split(f"[{_ASCII_SPACE}]+", line) if column]
    if len(columns) != width and len(line.split()) == width:
        return line.split()
    return columns


def _is_tabbed_word(line: str, how: Reading) -> bool:
    """Whether a line that starts with ``#`` has tabs and ends with a tag, as no comment does."""
    return "\t" in line and is_tag_like(_split(line)[-1], how)


def _width(line: _Line, path: str, how: Reading) -> int:
    width = len(_split(line.text))
    least = 2 if how.labelled else 1
    if width < least and len(line.text.split()) >= least:
        width = len(line.text.split())
    if width < least:
        raise DataError(f"{path}:{line.number}: a line must have a token and a tag, got {line.text.strip()!r}")
    return width


def _odd_space(line: str) -> str:
    usual = _ASCII_SPACE.replace("\r", "")
    odd = sorted({character for character in line if character.isspace() and character not in usual})
    return f" (it holds {', '.join(map(describe_character, odd))})" if odd else ""


def _is_row(columns: Sequence[str], layout: Layout, width: int, how: Reading) -> bool:
    """Whether a line that starts with ``#`` is a word with its tag, and no comment."""
    if len(columns) != width or layout.number is not None:
        return False
    return layout.tag is None or is_tag_like(columns[layout.tag], how)


def _check_comment(columns: Sequence[str], line: _Line, path: str, inside: bool) -> None:
    if inside and columns[0] != "#":
        raise DataError(
            f"{path}:{line.number}: {columns[-1]!r} is no BIO tag, and the line is no comment for certain; "
            "correct the tag, or write '# ' at the start of a comment"
        )


def _record(rows: list[tuple[int, str, str]], path: str, how: Reading) -> Record:
    lines = tuple(number for number, _, _ in rows)
    tags = [tag for _, _, tag in rows] if how.labelled else None
    return make_record([token for _, token, _ in rows], tags, path, lines[0], lines, labelled=how.labelled)
