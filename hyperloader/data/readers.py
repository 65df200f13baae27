"""Files of labelled sentences: JSONL, CoNLL columns, CSV. Every fault is a DataError with file and line."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from .sentence import DataError, Sentence, make_sentence


def read_split(path: str | Path) -> list[Sentence]:
    """The sentences of one file, in its order.

    Args:
        path: the suffix names the format (all UTF-8, a byte-order mark is skipped):

            * `.jsonl`: one object a line, `{"tokens": ["show", "flights"], "tags": ["O", "O"]}`; other keys and blank
              lines are skipped.
            * `.conll`: one word a line, columns separated by tabs or white space, the token first, the tag last, as
              many columns on every line; blank lines part the sentences. Skipped: `-DOCSTART-` lines, `#begin
              document`, `#end document`, and lines whose first column is `#` alone and whose last column is no BIO tag
              (so that the word `#` is no comment).
            * `.csv`: with a header, either one row a sentence (columns `tokens`, `tags`, both separated by spaces) or
              one row a word (columns `sentence`, `token`, `tag`; the rows of a sentence stand together). Other columns
              are skipped.

    Raises:
        DataError: a missing, empty or unreadable file, an unknown suffix, bytes that are no UTF-8, or anything in it
            that is no labelled sentence; the message names file and line.
    """
    path = Path(path)
    reader = READERS.get(path.suffix)
    if reader is None:
        raise DataError(f"{path}: the suffix must be one of {', '.join(READERS)}, got {path.suffix!r}")
    sentences = list(reader(_read_text(path), str(path)))
    if not sentences:
        raise DataError(f"{path}:1: the file holds no sentence; fill it or leave the task out")
    return sentences


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: the file does not exist; correct the path") from None
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read ({error.strerror}); make it a readable file") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise DataError(f"{path}:{line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8") from None


def parse_json_line(line: str, where: str, *, labelled: bool = True) -> Sentence:
    """The sentence of one JSONL line.

    Args:
        line: `{"tokens": [...], "tags": [...]}`; other keys are skipped.
        where: the start of every error message, as `FILE:LINE`.
        labelled: False allows a line without `tags`, whose words then all get `O`.

    Raises:
        DataError: no JSON, no object, a missing key, or no labelled sentence.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        what = getattr(error, "msg", "nested too deeply")
        raise DataError(f"{where}: invalid JSON ({what}); write one JSON object a line") from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: a line must be a JSON object with tokens and tags, got {type(record).__name__}")
    for key in ("tokens", "tags") if labelled else ("tokens",):
        if key not in record:
            has = ", ".join(map(repr, record)) or "nothing"
            raise DataError(f"{where}: the object has no {key!r}, it has {has}; rename or add the key")
    tags = record.get("tags")
    if labelled and tags is None:
        raise DataError(f"{where}: tags must be a list of text, got null; give every token one tag")
    return make_sentence(record["tokens"], tags, where)


def _read_jsonl(text: str, path: str) -> Iterator[Sentence]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield parse_json_line(line, f"{path}:{number}")


def _is_comment(columns: list[str]) -> bool:
    if columns[0] == "-DOCSTART-" or (columns[0] in ("#begin", "#end") and columns[1:2] == ["document"]):
        return True
    last = columns[-1]
    return columns[0] == "#" and not (len(columns) > 1 and (last == "O" or last[:2] in ("B-", "I-")))


def _read_conll(text: str, path: str) -> Iterator[Sentence]:
    width, rows, first = None, [], 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            if rows:
                yield _conll_sentence(rows, path, first)
                rows = []
            continue
        columns = [column.strip() for column in line.split("\t")] if "\t" in line else line.split()
        if _is_comment(columns):
            continue
        if width is None:
            width = len(columns)
            if width < 2:
                raise DataError(f"{path}:{number}: a line must have a token and a tag, got {line.strip()!r}")
        if len(columns) != width:
            raise DataError(
                f"{path}:{number}: the line has {len(columns)} columns where the first has {width}; "
                "write as many on every line, and an empty line between sentences"
            )
        if not rows:
            first = number
        rows.append((number, columns[0], columns[-1]))
    if rows:
        yield _conll_sentence(rows, path, first)


def _conll_sentence(rows: list[tuple[int, str, str]], path: str, first: int) -> Sentence:
    tokens, tags = [token for _, token, _ in rows], [tag for _, _, tag in rows]
    try:
        return make_sentence(tokens, tags, f"{path}:{first}")
    except DataError:
        for count, (number, _, _) in enumerate(rows, 1):  # the same check word by word finds the line at fault
            make_sentence(tokens[:count], tags[:count], f"{path}:{number}")
        raise


def _csv_rows(text: str, path: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for row in reader:
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{line}: invalid CSV ({error}); quote fields that hold commas or quotes") from None


def _read_csv(text: str, path: str) -> Iterator[Sentence]:
    rows = _csv_rows(text, path)
    _, header = next(rows, (1, []))
    header = [name.strip() for name in header]
    if not header:
        return
    for wanted, read in ((("tokens", "tags"), _csv_by_sentence), (("sentence", "token", "tag"), _csv_by_word)):
        if all(header.count(name) == 1 for name in wanted):
            yield from read(_pick(rows, [header.index(name) for name in wanted], len(header), path), path)
            return
    raise DataError(
        f"{path}:1: the header must name tokens,tags (one row a sentence) or sentence,token,tag (one row a word), "
        f"each once, got {','.join(header)}"
    )


def _pick(rows, columns: list[int], width: int, path: str) -> Iterator[tuple[int, list[str]]]:
    for line, row in rows:
        if len(row) != width:
            raise DataError(
                f"{path}:{line}: the row has {len(row)} fields where the header has {width}; "
                "quote fields that hold commas"
            )
        yield line, [row[column] for column in columns]


def _csv_by_sentence(rows, path: str) -> Iterator[Sentence]:
    for line, (tokens, tags) in rows:
        yield make_sentence(tokens.split(), tags.split(), f"{path}:{line}")


def _csv_by_word(rows, path: str) -> Iterator[Sentence]:
    seen, current, words = set(), None, []
    for line, (sentence, token, tag) in rows:
        if sentence != current:
            if words:
                yield _conll_sentence(words, path, words[0][0])
            if sentence in seen:
                raise DataError(
                    f"{path}:{line}: sentence {sentence!r} comes a second time; keep its rows together or renumber it"
                )
            seen.add(sentence)
            current, words = sentence, []
        words.append((line, token, tag))
    if words:
        yield _conll_sentence(words, path, words[0][0])


READERS = {".jsonl": _read_jsonl, ".conll": _read_conll, ".csv": _read_csv}
