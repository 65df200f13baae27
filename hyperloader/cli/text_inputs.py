"""What ``predict`` reads for a task of whole sentences: a line of text, a JSON object, a row of CSV."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hyperloader.cli.inputs import Batch, Own, as_they_arrive, whole_text
from hyperloader.data.json_files import objects_of_array
from hyperloader.data.kinds import Kind
from hyperloader.data.sentence import DataError
from hyperloader.data.text_readers import TEXT_READERS
from hyperloader.serving.inputs import Columns, Input, reading_of, text_of_object, written_input, written_of_object

FORMATS = ("auto", "text", "jsonl", "json", "csv")
_RENAME = "rename one, or set --columns text=KEY"


def read_texts(
    source: BinaryIO | None,
    name: str,
    format: str,
    kind: Kind,
    columns: Columns,
    own: Own = lambda record, number: None,
) -> Iterator[Batch]:
    """The texts of a file or a stream, as they arrive; CSV, TSV and JSON are read as a whole, now.

    Args:
        source: bytes; None for a folder.
        name: a path, or what stands in messages.
        format: one of ``FORMATS``; ``auto`` goes by the name, and else by the first line: JSONL or plain text.
        kind: of the task: in plain text the two of a pair are separated by a tab.
        columns: where ``text`` and ``text_pair``, or what the kind has for them, stand.
        own: as of ``hyperloader.cli.inputs.read``.

    Yields:
        Texts, and what is wrong with the line after them, which is the last that is read.

    Raises:
        ValueError: a folder, or a format that a task of whole sentences does not have.
    """
    if source is None:
        raise ValueError(f"{name}: the input must be a file for a task of whole sentences, got a folder")
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)} for a task of whole sentences, got {format}")
    suffix = Path(name).suffix.lower()
    if format == "auto" and suffix in TEXT_READERS:
        format = suffix[1:]
    how = reading_of(kind, columns)

    def of_record(record: dict, number: int) -> Input:
        if (found := own(record, number)) is not None:
            return found
        if kind.written:
            return written_of_object(record, number, name, how)
        return text_of_object(record, number, name, how, _RENAME)

    if format in ("csv", "tsv"):
        examples = TEXT_READERS[f".{format}"](whole_text(source, name), name, how)
        return iter([([written_input(one) for one in examples], None)])
    if format == "json":
        objects = objects_of_array(whole_text(source, name), name, "text")
        return iter([([of_record(record, line) for line, record in objects], None)])

    def of_line(text: str, number: int) -> Input:
        if columns:
            raise DataError(f"{name}:{number}: --columns goes with JSON and CSV, and this is plain text")
        return _of_line(text, number, name, kind)

    return as_they_arrive(source, name, format, of_line, of_record)


def _of_line(text: str, number: int, name: str, kind: Kind) -> Input:
    if not kind.pair or not text.strip():
        return Input(number, text)
    parts = text.split("\t")
    if len(parts) != 2:
        raise DataError(
            f"{name}:{number}: the line must be two texts with a tab between them, got {len(parts) - 1} tabs; or give "
            "JSON with text and text_pair"
        )
    return Input(number, parts[0], text_pair=parts[1])
