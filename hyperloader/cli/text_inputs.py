"""What ``predict`` reads for a task of whole sentences: a line of text, a JSON object, a row of CSV."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from hyperloader.cli.inputs import Columns, as_they_arrive, whole_text
from hyperloader.data.json_files import objects_of_array
from hyperloader.data.kinds import Kind
from hyperloader.data.labelled_text import LabelledText, make_text
from hyperloader.data.sentence import DataError
from hyperloader.data.text_readers import TEXT_READERS, TextReading

FORMATS = ("auto", "text", "jsonl", "json", "csv")
Batch = tuple[list["TextInput"], DataError | None]


@dataclass(frozen=True)
class TextInput:
    """One text, or pair of texts, to be answered.

    line: where it starts in its file, from 1. given: the keys of a JSON object.
    """

    line: int
    text: str
    text_pair: str | None = None
    given: Mapping = field(default_factory=dict)

    def example(self, name: str) -> LabelledText | None:
        """What the model is asked; None where a text is empty."""
        empty = not self.text.strip() or (self.text_pair is not None and not self.text_pair.strip())
        return None if empty else LabelledText(self.text, self.text_pair, None, name, self.line)


def read_texts(source: BinaryIO | None, name: str, format: str, kind: Kind, columns: Columns) -> Iterator[Batch]:
    """The texts of a file or a stream, as they arrive; CSV, TSV and JSON are read as a whole, now.

    Args:
        source: bytes; None for a folder.
        name: a path, or what stands in messages.
        format: one of ``FORMATS``; ``auto`` goes by the name, and else by the first line: JSONL or plain text.
        kind: of the task: in plain text the two of a pair are separated by a tab.
        columns: where ``text`` and ``text_pair`` stand.

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
    how = TextReading(kind, columns, labelled=False)
    if format in ("csv", "tsv"):
        examples = TEXT_READERS[f".{format}"](whole_text(source, name), name, how)
        return iter([([TextInput(one.line, one.text, one.text_pair) for one in examples], None)])
    if format == "json":
        objects = objects_of_array(whole_text(source, name), name, "text")
        return iter([([_of_object(record, line, name, how) for line, record in objects], None)])

    def of_line(text: str, number: int) -> TextInput:
        if columns:
            raise DataError(f"{name}:{number}: --columns goes with JSON and CSV, and this is plain text")
        return _of_line(text, number, name, kind)

    return as_they_arrive(source, name, format, of_line, lambda record, number: _of_object(record, number, name, how))


def _of_line(text: str, number: int, name: str, kind: Kind) -> TextInput:
    if not kind.pair or not text.strip():
        return TextInput(number, text)
    parts = text.split("\t")
    if len(parts) != 2:
        raise DataError(
            f"{name}:{number}: the line must be two texts with a tab between them, got {len(parts) - 1} tabs; or give "
            "JSON with text and text_pair"
        )
    return TextInput(number, parts[0], parts[1])


def _of_object(record: dict, line: int, name: str, how: TextReading) -> TextInput:
    key, pair_key, where = how.column("text"), how.column("text_pair"), f"{name}:{line}"
    text, pair = cast(Any, record.get(key)), record.get(pair_key)
    if text is None and "text" not in how.columns and _are_words(record.get("tokens")):
        text = " ".join(record["tokens"])
    for wanted, found in ((key, text), *([(pair_key, pair)] if how.kind.pair else [])):
        if found is None:
            has = ", ".join(map(repr, record)) or "nothing"
            raise DataError(
                f"{where}: the object has no {wanted!r}, it has {has}; rename one, or set --columns text=KEY"
            )
    if pair is not None and not how.kind.pair:
        raise DataError(f"{where}: the object has {pair_key!r}, and the task is one of single texts; remove it")
    given = TextInput(line, text, pair, record)
    for one in (text, pair):
        if not isinstance(one, str | None) or (isinstance(one, str) and one.strip()):
            make_text(one, None, None, how.kind, name, line, labelled=False)  # refuses what is no text
    return given


def _are_words(tokens: object) -> bool:
    return isinstance(tokens, list) and all(isinstance(one, str) for one in tokens)
