"""Which column of a CoNLL file holds the words and which the tags, and which only counts."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hyperloader.data.records import Reading
from hyperloader.data.schemes import parse_tag
from hyperloader.data.sentence import DataError
from hyperloader.validation import listed

TOKEN_NAMES = ("token", "tokens", "word", "words", "form")
TAG_NAMES = ("tag", "tags", "label", "labels", "ner", "ner_tag", "ner_tags", "slot", "slots")
_NOT_A_WORD = re.compile(r"\d+-\d+|\d+\.\d+")  # CoNLL-U: a range of words written as one, an empty node
_NUMBER = re.compile(r"[\W_]*(?:\d[\W_]*)+")
WORDS = "counts the words"
_MANY = 10  # rows after which one and the same value on every line is no word


@dataclass(frozen=True, slots=True)
class Row:
    """A line of columns: its number, the number of its sentence, the columns."""

    number: int
    sentence: int
    columns: list[str]


@dataclass(frozen=True, slots=True)
class Layout:
    """Places (from 0) of the words, of the tags, and of a column of running numbers; the line of a header."""

    token: int
    tag: int | None
    number: int | None = None
    header_line: int | None = None

    def skips(self, columns: Sequence[str]) -> bool:
        """Whether the row is no word by its number: a range or an empty node of CoNLL-U."""
        return self.number is not None and _NOT_A_WORD.fullmatch(columns[self.number]) is not None


def is_tag_like(value: str, how: Reading) -> bool:
    """Whether ``value`` is a tag of some scheme, or a number where tags are numbers."""
    return value.isdecimal() if how.numbered else parse_tag(value) is not None


def guess_layout(rows: list[Row], path: str, width: int, how: Reading) -> Layout:
    """The layout that ``how.columns`` names; else the last column holds the tags and the first one the words.

    A first column that only counts (words within a sentence or the file, or sentences) is passed over, and where the
    last column holds no tags but exactly one other does, that one is taken: both are said in ``how.notes``.

    Raises:
        DataError: ``how.columns`` names no column; a first column that counts most sentences but not all, or holds
            numbers alone; a last column without a tag.
    """
    name = path.rpartition("/")[2]
    whole = [row for row in rows if len(row.columns) == width]
    header = _header(whole, how)
    body = whole[1:] if header else whole
    line = header.number if header else None
    token, tag = (_named(how.columns.get(key), header, path, width) for key in ("tokens", "tags"))
    if header:
        how.notes.append(f"{name}: line {line} names the columns and was read as a header")
        token = _titled(header, TOKEN_NAMES) if token is None else token
        tag = _titled(header, TAG_NAMES) if tag is None else tag
    if tag is None and body:
        tag = _tag_column(body, width, token, path, how)
    if tag is not None and token == tag:
        raise DataError(f"{path}:1: columns must name two columns, got {token + 1} for tokens and for tags")
    number = None
    if token is None:
        others = [place for place in range(width) if place != tag]
        token = others[-1]
        for place in others[:-1]:
            counted = _counts(body, place, path)
            if counted is None:
                _refuse_numbers(body, place, path)
                token = place
                break
            number = place if counted == WORDS else number
            how.notes.append(
                f"{name}: column {place + 1} {counted} and was not read as the words; "
                f"if they stand there, set columns: {{tokens: {place + 1}}}"
            )
    elif token > 0 and _counts(body, 0, path) == WORDS:
        number = 0
    return Layout(token, tag if how.labelled else None, number, line)


def _header(rows: list[Row], how: Reading) -> Row | None:
    """The first row if it names columns: those of ``how.columns``, or a usual name for the words and one for the
    tags."""
    if not rows:
        return None
    if any(isinstance(name, str) for name in how.columns.values()):
        return rows[0]
    names = [name.lower() for name in rows[0].columns]
    usual = all(any(name in names for name in known) for known in (TOKEN_NAMES, TAG_NAMES))
    return rows[0] if usual else None


def _titled(header: Row, known: Sequence[str]) -> int | None:
    names = [name.lower() for name in header.columns]
    return next((names.index(name) for name in known if name in names), None)


def _named(column: str | int | None, header: Row | None, path: str, width: int) -> int | None:
    if column is None:
        return None
    if isinstance(column, str):
        names = header.columns if header else []
        if names.count(column) != 1:
            line = header.number if header else 1
            raise DataError(
                f"{path}:{line}: the first line must name the column {column!r} once, got {listed(names, 'columns')}; "
                "correct columns, or give their numbers"
            )
        return names.index(column)
    if not 1 <= abs(column) <= width:
        raise DataError(f"{path}:1: columns must be from 1 to {width}, or from -1 to -{width}, got {column}")
    return column - 1 if column > 0 else width + column


def _tag_column(rows: list[Row], width: int, token: int | None, path: str, how: Reading) -> int | None:
    last = width - 1
    if how.numbered or (width == 1 and not how.labelled):
        return last if width > 1 else None
    like = [sum(is_tag_like(row.columns[place], how) for row in rows) for place in range(width)]
    others = [
        place
        for place in range(last)
        if place != token and like[place] == len(rows) and any(row.columns[place] != "O" for row in rows)
    ]
    name = path.rpartition("/")[2]
    if 2 * like[last] >= len(rows):
        if others:
            how.notes.append(
                f"{name}: the last column was read as the tags; column {others[-1] + 1} holds tags too: "
                f"columns: {{tags: {others[-1] + 1}}} reads those"
            )
        return last
    if len(others) == 1:
        how.notes.append(f"{name}: the last column holds no tags, column {others[0] + 1} was read as the tags")
        return others[0]
    if like[last] or not how.labelled:
        return last if like[last] else None
    raise DataError(
        f"{path}:{rows[0].number}: the last column must hold tags such as O, B-<type> and I-<type>, "
        f"got {rows[0].columns[last]!r}; set columns: {{tokens: NUMBER, tags: NUMBER}}"
    )


def _counts(rows: list[Row], place: int, path: str) -> str | None:
    """What a column does that holds no words, None for one that may hold words."""
    groups = [list(group) for _, group in itertools.groupby(rows, lambda row: row.sentence)]
    every = {row.columns[place] for row in rows}
    if len(every) == 1 and len(rows) >= _MANY and len(groups) > 1:
        return f"holds {every.pop()!r} on every line"
    sentences = [[value for row in group if not _NOT_A_WORD.fullmatch(value := row.columns[place])] for group in groups]
    sentences = [sentence for sentence in sentences if sentence]
    longer = [sentence for sentence in sentences if len(sentence) > 1]
    if longer and all(map(_runs, sentences)):
        return WORDS
    if _runs(values := list(itertools.chain.from_iterable(sentences))) and len(values) > 1:
        return "counts the words of the file"
    alike = all(len(set(sentence)) == 1 for sentence in sentences)
    if longer and alike and len(sentences) > 1 and _runs([sentence[0] for sentence in sentences]):
        return "counts the sentences"
    if alike and len(values) > len(sentences) + 1:
        return "holds one value throughout each sentence"
    running = sum(map(_runs, longer))
    if running >= _MANY and 10 * running >= 9 * len(longer):
        wrong = next(group[0] for group in groups if not _runs([row.columns[place] for row in group]))
        raise DataError(
            f"{path}:{wrong.number}: column {place + 1} counts the words of {running:,} of {len(longer):,} sentences, "
            f"but not of this one; correct it, or set columns: {{tokens: {place + 1}}} if these are the words"
        )
    return None


def _refuse_numbers(rows: list[Row], place: int, path: str) -> None:
    """Refuse a first column of numbers (``0001``, ``[3]``, ``1-2``) that counts in no way known here: it holds no
    words."""
    if rows and all(_NUMBER.fullmatch(row.columns[place]) for row in rows):
        raise DataError(
            f"{path}:{rows[0].number}: column {place + 1} holds numbers alone, as {rows[0].columns[place]!r}; set "
            f"columns: {{tokens: {place + 2}}}, or {{tokens: {place + 1}}} if the numbers are the words"
        )


def _runs(values: Sequence[str]) -> bool:
    """Whether ``values`` are 0, 1, 2, ... or 1, 2, 3, ..."""
    return (
        bool(values)
        and values[0] in ("0", "1")
        and all(value == str(number) for number, value in enumerate(values, int(values[0])))
    )
