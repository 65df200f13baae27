"""Files of labelled texts, by the suffix of their name. Every fault is a DataError with file and line."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperloader.config import MULTI_LABEL, REGRESSION
from hyperloader.data.csv_files import LONGEST_HEADER, csv_table
from hyperloader.data.json_files import missing_key, objects_of_array, parse_object
from hyperloader.data.kinds import CHAT, Kind
from hyperloader.data.labelled_text import LabelledText, make_text
from hyperloader.data.sentence import DataError
from hyperloader.data.text_files import read_text
from hyperloader.data.written_text import FIELDS, Chat, WrittenText, make_chat, make_written
from hyperloader.validation import shortened

TEXT_COLUMNS = ("text", "text_pair", "label")
_HOLDS = "text, text_pair (of pairs) and label"
AnyText = LabelledText | WrittenText | Chat


@dataclass(frozen=True)
class TextReading:
    """How a file of texts is read.

    kind: of the task. columns: which key or column holds what of ``columns_of`` the kind. names: what whole numbers as
    labels stand for. labelled: whether labels are needed; else they are not looked at.
    """

    kind: Kind
    columns: Mapping[str, str | int]
    names: Sequence[str] | None = None
    labelled: bool = True

    def column(self, key: str) -> str:
        """The name of the column that holds ``key``."""
        return str(self.columns.get(key, key))

    @property
    def needed(self) -> list[str]:
        """The columns that every line has."""
        if self.kind.written:
            keys = FIELDS[self.kind.name]
            return [self.column(key) for key in (keys if self.labelled else keys[:1])]
        pair = ["text_pair"] if "text_pair" in self.columns else []
        return [self.column(key) for key in ("text", *pair, *(["label"] if self.labelled else []))]

    @property
    def holds(self) -> str:
        """What a line holds, in words."""
        return " and ".join(FIELDS[self.kind.name]) if self.kind.written else _HOLDS

    def of_values(self, values: Mapping[str, Any], path: str, line: int) -> AnyText:
        """The example of a line that has the needed columns."""
        if self.kind.name == CHAT:
            return make_chat(values[self.column("messages")], path, line, labelled=self.labelled)
        if self.kind.written:
            given, wanted = FIELDS[self.kind.name]
            target = values[self.column(wanted)] if self.labelled else None
            return make_written(values[self.column(given)], target, self.kind.name, path, line, labelled=self.labelled)
        text, pair, label = (values.get(self.column(key)) for key in TEXT_COLUMNS)
        if pair is None and "text_pair" in self.columns:
            raise DataError(f"{path}:{line}: {self.column('text_pair')} is empty; write the second text")
        return make_text(text, pair, label, self.kind, path, line, names=self.names, labelled=self.labelled)


def columns_of(kind: str) -> tuple[str, ...]:
    """What ``columns`` of a task of this kind, which is no tagging, may name."""
    return FIELDS.get(kind, TEXT_COLUMNS)


def read_text_file(path: str | Path, how: TextReading) -> tuple[list[AnyText], list[str]]:
    """The examples of one file, in its order, and notes on how it was read.

    ``.jsonl``: an object a line, ``{"text": "...", "label": "..."}``, of pairs with ``text_pair``; other keys and blank
    lines are skipped. ``.json``: an array of such objects. ``.csv`` and, separated by tabs, ``.tsv``: the same as
    columns under a header; a multi-label task's labels are separated by spaces, and messages are JSON.

    Raises:
        DataError: a missing, empty or unreadable file, another suffix, a line that is no example.
    """
    path = Path(path)
    if path.suffix.lower() not in TEXT_READERS:
        raise DataError(f"{path}: the suffix must be one of {', '.join(TEXT_READERS)}, got {path.suffix!r}")
    text, notes = read_text(path)
    examples = list(TEXT_READERS[path.suffix.lower()](text, str(path), how))
    if not examples:
        raise DataError(f"{path}:1: the file holds no text; fill it or leave the task out")
    return examples, notes


def of_object(record: dict, path: str, line: int, how: TextReading) -> AnyText:
    """The example that a JSON object is. Raises DataError for a missing key."""
    for key in how.needed:
        if key not in record:
            hint = "" if how.columns else ", or set columns"
            raise DataError(missing_key(record, key, f"{path}:{line}") + hint)
    return how.of_values(record, path, line)


def _read_lines(text: str, path: str, how: TextReading) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield of_object(parse_object(line, f"{path}:{number}", how.holds), path, number, how)


def _read_array(text: str, path: str, how: TextReading) -> Iterator[Any]:
    for number, record in objects_of_array(text, path, how.holds):
        yield of_object(record, path, number, how)


def _read_csv(text: str, path: str, how: TextReading, delimiter: str = ",") -> Iterator[Any]:
    header, rows = csv_table(text, path, delimiter)
    pair = how.column("text_pair")
    for name in (*how.needed, *([pair] if pair in header else [])):
        if header and header.count(name) != 1:
            wanted, got = ",".join(how.needed), shortened(",".join(header), LONGEST_HEADER)
            raise DataError(
                f"{path}:1: the header must name {wanted}, each once, got {got}; rename them or set columns"
            )
    for line, row in rows:
        values: dict[str, Any] = dict(zip(header, row, strict=True))
        if how.kind.name == CHAT:
            values[how.column("messages")] = _messages_of_cell(values[how.column("messages")])
        elif how.labelled and not how.kind.written:
            values[how.column("label")] = _of_cell(values[how.column("label")], how)
        yield how.of_values(values, path, line)


def _of_cell(cell: str, how: TextReading) -> Any:
    """The label that a cell spells."""
    if how.kind.name == REGRESSION:
        try:
            return float(cell) if "_" not in cell else cell
        except ValueError:
            return cell
    parts: list[str | int] = [*cell.split()] if how.kind.name == MULTI_LABEL else [cell]
    if how.names is not None:
        parts = [int(one) if str(one).strip().isdecimal() else one for one in parts]
    return parts if how.kind.name == MULTI_LABEL else parts[0]


def _messages_of_cell(cell: str) -> Any:
    """The JSON in a cell; the cell itself, to be refused later, if it holds anything else."""
    try:
        return json.loads(cell)
    except ValueError:
        return cell


TEXT_READERS: dict[str, Callable[[str, str, TextReading], Iterator[Any]]] = {
    ".jsonl": _read_lines,
    ".json": _read_array,
    ".csv": _read_csv,
    ".tsv": functools.partial(_read_csv, delimiter="\t"),
}
