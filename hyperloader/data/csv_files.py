"""CSV with a header: one row a sentence, or one row a word."""

import csv
import io
from collections.abc import Callable, Iterator

from hyperloader.data.records import Reading, Record, make_record
from hyperloader.data.sentence import DataError
from hyperloader.validation import shortened

LONGEST_HEADER = 200  # characters of a first line in a message

Rows = Iterator[tuple[int, list[str]]]


def read_csv(text: str, path: str, how: Reading) -> Iterator[Record]:
    """The sentences of a CSV file (format: ``read_split``)."""
    header, rows = csv_table(text, path)
    if not header:
        return
    for wanted, read in _layouts(how):
        if all(header.count(name) == 1 for name in wanted):
            columns = [header.index(name) for name in wanted]
            yield from read(((line, [row[place] for place in columns]) for line, row in rows), path, how)
            return
    got = shortened(",".join(header), LONGEST_HEADER)
    if how.columns:
        needed = " or ".join(",".join(wanted) for wanted, _ in _layouts(how))
        raise DataError(f"{path}:1: the header must name {needed}, each once, got {got}; correct columns")
    raise DataError(
        f"{path}:1: the header must name tokens,tags (one row a sentence) or sentence,token,tag (one row a word), "
        f"each once, got {got}; rename them or set columns"
    )


def _layouts(how: Reading) -> list[tuple[list[str], Callable[..., Iterator[Record]]]]:
    by_sentence = [str(how.columns.get("tokens", "tokens")), str(how.columns.get("tags", "tags"))]
    by_word = [
        str(how.columns.get("sentence", "sentence")),
        str(how.columns.get("tokens", "token")),
        str(how.columns.get("tags", "tag")),
    ]
    if not how.labelled:
        by_sentence, by_word = by_sentence[:1], by_word[:2]
    layouts = [(by_sentence, _by_sentence), (by_word, _by_word)]
    return layouts[1:] if "sentence" in how.columns else layouts


def csv_table(text: str, path: str, delimiter: str = ",") -> tuple[list[str], Rows]:
    """The header, and (line, fields) of the rows under it but empty ones; DataError for anything but CSV, and for a row
    with another number of fields."""
    rows = _rows(text, path, delimiter)
    header = next(rows, (1, []))[1]
    return [name.strip() for name in header], _of_width(rows, len(header), path)


def _rows(text: str, path: str, delimiter: str) -> Rows:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    line = 1
    try:
        for row in reader:
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{line}: invalid CSV ({error}); quote fields that hold commas or quotes") from None


def _of_width(rows: Rows, width: int, path: str) -> Rows:
    for line, row in rows:
        if len(row) != width:
            raise DataError(
                f"{path}:{line}: the row has {len(row)} fields where the header has {width}; "
                "quote fields that hold the separator"
            )
        yield line, row


def _by_sentence(rows: Rows, path: str, how: Reading) -> Iterator[Record]:
    for line, (tokens, *tags) in rows:
        given = tags[0].split() if tags else None
        yield make_record(tokens.split(), given, path, line, labelled=how.labelled)


def _by_word(rows: Rows, path: str, how: Reading) -> Iterator[Record]:
    seen: set[str] = set()
    words: list[tuple[int, list[str]]] = []
    current = None
    for line, (sentence, *word) in rows:
        if sentence != current and (sentence.strip() or current is None):  # an empty cell continues the sentence
            if words:
                yield _record(words, path, how)
            if sentence in seen:
                raise DataError(
                    f"{path}:{line}: sentence {sentence!r} comes a second time; keep its rows together or renumber it"
                )
            seen.add(sentence)
            current, words = sentence, []
        words.append((line, word))
    if words:
        yield _record(words, path, how)


def _record(words: list[tuple[int, list[str]]], path: str, how: Reading) -> Record:
    lines = tuple(line for line, _ in words)
    tags = [word[1] for _, word in words] if how.labelled else None
    return make_record([word[0] for _, word in words], tags, path, lines[0], lines, labelled=how.labelled)
