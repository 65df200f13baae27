"""What ``predict`` reads: a line of text, a JSON object, or a sentence of any file that ``train`` reads."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, TypeVar

from hyperloader.cli.arriving import arriving_lines, decoded
from hyperloader.data.json_files import objects_of_array, parse_object
from hyperloader.data.readers import READERS, read_file, reader_of
from hyperloader.data.records import Reading, Record
from hyperloader.data.schemes import parse_tag
from hyperloader.data.sentence import DataError
from hyperloader.serving.inputs import Columns, Input, Split, of_object, of_words

FORMATS = ("auto", "text", "jsonl", "json", "conll", "csv")
Batch = tuple[list[Input], DataError | None]
Own = Callable[[dict, int], Input | None]
_RENAME = "rename one, or set --columns tokens=KEY or text=KEY"
_T = TypeVar("_T")


def read(
    source: BinaryIO | None,
    name: str,
    format: str,
    split_plain: Split | None,
    split_running: Split | None,
    columns: Columns = MappingProxyType({}),
    own: Own = lambda record, number: None,
) -> Iterator[Batch]:
    """The sentences of a file or a stream.

    Text and JSONL come as they arrive, as many sentences at a time as are there without waiting for more. Files of
    other formats are read as a whole, now: a fault in one of them is raised.

    Args:
        source: bytes; None for a folder, ``name``, that ``train`` reads as a file.
        name: a path, or what stands in messages.
        format: one of ``FORMATS``; ``auto`` goes by the name, and else by the first line: JSONL or plain text. A
            ``.txt`` is plain text.
        split_plain: gives the words of a line of plain text; None leaves them to each task's rule.
        split_running: the words of a JSON object's ``text`` that comes without words, likewise.
        columns: where ``tokens``, ``text`` and so on stand, as for ``train``.
        own: the input of a JSON object and its line that says what it is; None: it is read as any other.

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

    def of_record(record: dict, number: int) -> Input:
        return own(record, number) or of_object(record, number, name, split_running, columns, _RENAME)

    if format == "json":
        objects = objects_of_array(whole_text(source, name), name)
        return iter([([of_record(one, line) for line, one in objects], None)])
    if format in ("conll", "csv"):
        how = Reading(columns, labelled=False)
        records = list(READERS[f".{format}"](whole_text(source, name), name, how))
        return iter([(_of_records(records, how.notes), None)])

    def of_line(text: str, number: int) -> Input:
        if columns:
            raise DataError(f"{name}:{number}: --columns goes with JSON, CSV and columns, and this is plain text")
        return Input(number, text, None if split_plain is None else split_plain(text))

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
