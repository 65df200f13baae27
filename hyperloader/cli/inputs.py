"""What ``predict`` reads: a line of text, a JSON object, or a sentence of any file that ``train`` reads."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, TypeVar

from hyperloader.cli.arriving import arriving_lines, decoded
from hyperloader.data.json_files import objects_of_array, parse_object
from hyperloader.data.readers import READERS, read_file, reader_of
from hyperloader.data.records import Reading, Record
from hyperloader.data.schemes import parse_tag
from hyperloader.data.sentence import DataError, check_words
from hyperloader.data.spans_in_text import given_words, text_of

FORMATS = ("auto", "text", "jsonl", "json", "conll", "csv")
Columns = Mapping[str, str | int]
Split = Callable[[str], list[tuple[int, int]]]
Batch = tuple[list["Input"], DataError | None]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Input:
    """One sentence to be tagged.

    line: where it starts in its file, from 1. text: as given; of words alone, these joined by spaces. offsets: first
    character and character after the last of every word of ``text``. given: the keys of a JSON object.
    """

    line: int
    text: str
    offsets: list[tuple[int, int]]
    given: Mapping = field(default_factory=dict)

    @property
    def tokens(self) -> list[str]:
        """The words."""
        return [self.text[start:end] for start, end in self.offsets]


def read(
    source: BinaryIO | None,
    name: str,
    format: str,
    split_plain: Split,
    split_running: Split,
    columns: Columns = MappingProxyType({}),
) -> Iterator[Batch]:
    """The sentences of a file or a stream.

    Text and JSONL come as they arrive, as many sentences at a time as are there without waiting for more. Files of
    other formats are read as a whole, now: a fault in one of them is raised.

    Args:
        source: bytes; None for a folder, ``name``, that ``train`` reads as a file.
        name: a path, or what stands in messages.
        format: one of ``FORMATS``; ``auto`` goes by the name, and else by the first line: JSONL or plain text. A
            ``.txt`` is plain text.
        split_plain: the words of a line of plain text.
        split_running: the words of a JSON object's ``text`` that comes without words.
        columns: where ``tokens``, ``text`` and so on stand, as for ``train``.

    Yields:
        Sentences, and what is wrong with the line after them, which is the last that is read: of plain text with
        ``columns`` the first.
    """
    suffix = Path(name).suffix.lower()
    if source is None or (format == "auto" and suffix != ".txt"):
        if source is not None and suffix in (".json", ".jsonl"):
            format = suffix[1:]
        elif source is None or reader_of(Path(name)) is not None:
            read = read_file(name, columns=columns, labelled=False)
            return iter([(_of_records(read.records, read.notes), None)])
    if format == "json":
        objects = objects_of_array(whole_text(source, name), name)
        return iter([([of_object(one, line, name, split_running, columns) for line, one in objects], None)])
    if format in ("conll", "csv"):
        how = Reading(columns, labelled=False)
        records = list(READERS[f".{format}"](whole_text(source, name), name, how))
        return iter([(_of_records(records, how.notes), None)])

    def of_line(text: str, number: int) -> Input:
        if columns:
            raise DataError(f"{name}:{number}: --columns goes with JSON, CSV and columns, and this is plain text")
        return Input(number, text, split_plain(text))

    def of_record(record: dict, number: int) -> Input:
        return of_object(record, number, name, split_running, columns)

    def look(texts: list[str]) -> None:
        if format == "auto" and _are_columns(texts):
            print(f"warning: {name}: looks like columns of words and tags; if so: --format conll", file=sys.stderr)

    return as_they_arrive(source, name, format, of_line, of_record, look)


def whole_text(source: BinaryIO, name: str) -> str:
    """The text of a stream, its lines as ``decoded`` has them."""
    lines = (line for _, some in arriving_lines(source) for line in some)
    return "\n".join(decoded(line, f"{name}:{number}") for number, line in enumerate(lines, 1))


def _of_records(records: Iterable[Record], notes: Iterable[str]) -> list[Input]:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return [of_words(record.tokens, record.line) for record in records]


def as_they_arrive(
    source: BinaryIO,
    name: str,
    format: str,
    of_line: Callable[[str, int], _T],
    of_record: Callable[[dict, int], _T],
    look: Callable[[list[str]], None] = lambda texts: None,
) -> Iterator[tuple[list[_T], DataError | None]]:
    """What ``of_line`` makes of each line of plain text with its number, ``of_record`` of each of JSON, as many at a
    time as are there, and what is wrong with the line after them; ``look`` sees the first lines of plain text."""
    looked = False
    for first, lines in arriving_lines(source):
        found: list[_T] = []
        texts: list[str] = []
        for number, line in enumerate(lines, first):
            try:
                text = decoded(line, f"{name}:{number}")
                if format == "auto" and text.strip():
                    format = "jsonl" if text.lstrip().startswith("{") else "text"
                if format == "jsonl" and text.strip():
                    found.append(of_record(parse_object(text, f"{name}:{number}"), number))
                else:
                    texts.append(text)
                    found.append(of_line(text, number))
            except DataError as error:
                yield found, error
                return
        if not looked and format == "text":
            looked = True
            look(texts)
        yield found, None


def _are_columns(lines: list[str]) -> bool:
    rows = [line.split() for line in lines if line.strip()]
    tags = [row[-1] for row in rows]
    return (
        len({len(row) for row in rows}) == 1 and len(rows[0]) > 1 and all(map(parse_tag, tags)) and set(tags) != {"O"}
    )


def of_words(tokens: Iterable[str], line: int, given: Mapping | None = None) -> Input:
    """Words, which stand in their text with a space between."""
    offsets, place = [], 0
    for token in tokens:
        offsets.append((place, place + len(token)))
        place += len(token) + 1
    return Input(line, " ".join(tokens), offsets, given or {})


def of_object(record: dict, line: int, name: str, split: Split, columns: Columns = MappingProxyType({})) -> Input:
    """A JSON object with ``tokens``, with ``text``, or with both. Whatever else it holds is not looked at.

    Raises:
        DataError: neither, or words that are none.
    """
    where = f"{name}:{line}"
    text = text_of(record, Reading(columns, labelled=False))
    tokens: Any = record.get(str(columns.get("tokens", "tokens")))
    if tokens is None:
        if text is None:
            has = ", ".join(map(repr, record)) or "nothing"
            raise DataError(
                f"{where}: the object has no 'tokens' and no 'text', it has {has}; "
                "rename one, or set --columns tokens=KEY or text=KEY"
            )
        found = Input(line, text, split(text), record)
        if found.tokens:
            check_words(found.tokens, None, lambda position: where)
        return found
    if isinstance(tokens, list) and tokens and isinstance(tokens[0], dict):
        if text is None:
            raise DataError(f"{where}: tokens with offsets need the 'text' that they are counted in; add it")
        return Input(line, text, given_words(record, text, where) or [], record)
    if tokens != []:
        check_words(tokens, None, lambda position: where)
    offsets = None if text is None else _aligned(tokens, text)
    if text is None or offsets is None:
        return of_words(tokens, line, record)
    return Input(line, text, offsets, record)


def _aligned(tokens: list[str], text: str) -> list[tuple[int, int]] | None:
    """Where the words stand in the text; None unless they are all of it but white space."""
    offsets, place = [], 0
    for token in tokens:
        start = text.find(token, place)
        if start < 0 or text[place:start].strip():
            return None
        place = start + len(token)
        offsets.append((start, place))
    return None if text[place:].strip() else offsets
