"""JSON: one object a line, or an array of objects; with tokens and tags, or with text and spans."""

import json
from collections.abc import Iterator
from typing import Any

from hyperloader.data.records import Reading, Record, make_record
from hyperloader.data.sentence import DataError, Sentence, make_sentence
from hyperloader.data.spans_in_text import SPAN_KEYS, has_spans, read_spans, text_of
from hyperloader.json_file import without_repeats
from hyperloader.validation import held

_HOLDS = "tokens and tags"


def parse_json_line(line: str, where: str, *, labelled: bool = True) -> Sentence:
    """The sentence of one JSONL line.

    Args:
        line: ``{"tokens": [...], "tags": [...]}``; other keys are skipped.
        where: the start of every error message, as ``FILE:LINE``.
        labelled: False skips ``tags``, whatever they are, and gives all words ``O``.

    Raises:
        DataError: no JSON, no object, a missing key, or no labelled sentence.
    """
    record = parse_object(line, where)
    for key in ("tokens", "tags") if labelled else ("tokens",):
        if key not in record:
            raise DataError(missing_key(record, key, where))
    tags = record["tags"] if labelled else None
    if labelled and tags is None:
        raise DataError(f"{where}: tags must be a list of text, got null; give every token one tag")
    return make_sentence(record["tokens"], tags, where)


def read_json_lines(text: str, path: str, how: Reading) -> Iterator[Record]:
    """The sentences of a JSONL file (format: ``read_split``)."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}:{number}"
            yield from _record(parse_object(line, where), path, number, how)


def read_json_array(text: str, path: str, how: Reading) -> Iterator[Record]:
    """The sentences of a JSON file that is one array of objects."""
    for line, record in objects_of_array(text, path):
        yield from _record(record, path, line, how)


def parse_object(text: str, where: str, holds: str = _HOLDS) -> dict:
    """The JSON object that is ``text``. Raises DataError, its message starting with ``where``, for anything else; an
    object ``holds`` what it says there."""
    return _object(_parse(text, where), where, holds)


def objects_of_array(text: str, path: str, holds: str = _HOLDS) -> Iterator[tuple[int, dict]]:
    """(line, object) of a text that is a JSON array of objects. Raises DataError for anything else."""
    values = _parse(text, f"{path}:1", "a JSON array of objects; name a file with an object a line .jsonl")
    if not isinstance(values, list):
        raise DataError(f"{path}:1: the file must be a JSON array of objects, got {type(values).__name__}")
    decoder, place = json.JSONDecoder(), text.index("[") + 1
    line = text.count("\n", 0, place) + 1
    for value in values:
        start = place
        while text[start] in " \t\r\n,":
            start += 1
        line += text.count("\n", place, start)
        yield line, _object(value, f"{path}:{line}", holds)
        _, place = decoder.raw_decode(text, start)
        line += text.count("\n", start, place)


def _parse(text: str, where: str, what: str = "one JSON object a line") -> Any:
    try:
        return json.loads(text, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        problem = (
            "nested too deeply"
            if isinstance(error, RecursionError)
            else getattr(error, "msg", str(error)).partition(";")[0]
        )
        hint = " or a carriage return where a line feed belongs" if "\r" in text.strip() else ""
        raise DataError(f"{where}: invalid JSON ({problem}{hint}); write {what}") from None


def _object(value: Any, where: str, holds: str) -> dict:
    if not isinstance(value, dict):
        raise DataError(f"{where}: a line must be a JSON object with {holds}, got {type(value).__name__}")
    return value


def missing_key(record: dict, key: str, where: str) -> str:
    """The message about a ``key`` that an object does not have."""
    return f"{where}: the object has no {key!r}, it has {held(record)}; rename or add the key"


def _record(record: dict, path: str, line: int, how: Reading) -> Iterator[Record]:
    tokens_key, tags_key = str(how.columns.get("tokens", "tokens")), str(how.columns.get("tags", "tags"))
    where = f"{path}:{line}"
    if tokens_key in record and (tags_key in record or not how.labelled) and not _have_offsets(record[tokens_key]):
        yield make_record(record[tokens_key], record.get(tags_key), path, line, labelled=how.labelled)
    elif has_spans(record, how) or (not how.labelled and text_of(record, how) is not None):
        found = read_spans(record, where, how)
        if found is not None:
            yield make_record(*found, path, line, labelled=how.labelled)
    else:
        key = tokens_key if tokens_key not in record else tags_key
        message = missing_key(record, key, where)
        if not how.columns:
            message += f", or set columns; running text needs 'text' and one of {', '.join(SPAN_KEYS)}"
        raise DataError(message)


def _have_offsets(tokens: Any) -> bool:
    return isinstance(tokens, list) and bool(tokens) and isinstance(tokens[0], dict)
