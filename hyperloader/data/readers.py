"""Files of labelled sentences, by the suffix of their name. Every fault is a DataError with file and line."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hyperloader.data.column_files import read_columns
from hyperloader.data.csv_files import read_csv
from hyperloader.data.json_files import parse_json_line, read_json_array, read_json_lines
from hyperloader.data.parallel_files import WORDS, read_parallel
from hyperloader.data.records import Reading, Record
from hyperloader.data.schemes import TAGS, read_scheme
from hyperloader.data.sentence import DataError, Sentence
from hyperloader.data.tag_names import name_tags
from hyperloader.data.text_files import note_invisible, read_text
from hyperloader.validation import check_choice

__all__ = ["READERS", "ReadFile", "parse_json_line", "read_file", "read_split"]

READERS: dict[str, Callable[[str, str, Reading], Iterator[Record]]] = {
    ".jsonl": read_json_lines,
    ".conll": read_columns,
    ".csv": read_csv,
    ".json": read_json_array,
    **dict.fromkeys((".conllu", ".txt", ".tsv", ".bio", ".iob", ".iob2", ".iobes", ".bilou"), read_columns),
}


_SPLIT_SUFFIXES = (".train", ".dev", ".valid", ".test", ".testa", ".testb")  # columns, as in eng.testa


@dataclass(frozen=True)
class ReadFile:
    """The sentences of a file as they stand there, and what a user should know about how they were read."""

    records: list[Record]
    notes: list[str]


def read_split(
    path: str | Path, tags: str | None = None, columns: Mapping[str, str | int] | None = None
) -> list[Sentence]:
    """The sentences of one file, in its order, in strict BIO.

    Args:
        path: the suffix names the format (all UTF-8; byte-order marks at the start of lines are dropped):

            * ``.jsonl``: one object a line, ``{"tokens": ["show", "flights"], "tags": ["O", "O"]}``, or running text
              with spans by character, as doccano, Label Studio and Prodigy write them: ``{"text": "to Rome", "label":
              [[3, 7, "city"]]}``; other keys and blank lines are skipped. ``.json``: an array of such objects.
            * ``.conll .conllu .txt .tsv .bio .iob .iob2 .iobes .bilou``: one word a line, columns separated by tabs or
              spaces, the token first, the tag last, as many columns on every line; blank lines, ``-DOCSTART-``,
              ``#begin document`` and ``#end document`` part the sentences. A line that starts with ``#`` is a comment
              unless it has the columns of a word with a tag (so that the word ``#`` is no comment). A first column that
              only counts is passed over.
            * ``.csv``: with a header, either one row a sentence (columns ``tokens``, ``tags``, both separated by
              spaces) or one row a word (columns ``sentence``, ``token``, ``tag``; the rows of a sentence stand
              together; an empty ``sentence`` goes on with the one above). Other columns are skipped.
            * a folder: ``seq.in`` with the words of a sentence a line, ``seq.out`` with their tags.
        tags: the scheme of the tags, one of ``bio``, ``iob1``, ``iobes``, ``bilou``, or ``repair``; None finds it.
        columns: where ``tokens``, ``tags``, ``sentence``, ``text``, ``spans`` stand: keys of JSON, names of a header,
            or numbers of columns (from 1, or from the end from -1).

    Raises:
        DataError: a missing, empty or unreadable file, an unknown suffix, bytes that are no UTF-8, or anything in it
            that is no labelled sentence; the message names file and line.
        ValueError: ``tags`` is no scheme.
    """
    if tags is not None:
        check_choice("tags", tags, TAGS)
    read = read_file(path, columns=columns, repair=tags == "repair")
    sentences, _ = read_scheme({Path(path).name: name_tags(read.records, None)}, tags)
    return sentences[Path(path).name]


def read_file(
    path: str | Path,
    *,
    columns: Mapping[str, str | int] | None = None,
    labelled: bool = True,
    numbered: bool = False,
    repair: bool = False,
) -> ReadFile:
    """The sentences of one file or folder as they stand there (formats: ``read_split``).

    Args:
        columns: as ``read_split``.
        labelled: False reads the words alone: tags are not needed, and not looked at where there are some.
        numbered: the tags are numbers.
        repair: spans in running text that cut a word or overlap are put right, and counted in the notes.

    Raises:
        DataError: as ``read_split``, but for tags that break their scheme.
    """
    path = Path(path)
    how = Reading(columns or {}, labelled, numbered, repair)
    if (path / WORDS).is_file():
        records = list(read_parallel(path, how))
    else:
        reader = reader_of(path)
        if reader is None and path.is_dir():
            raise DataError(f"{path}: a folder must hold {WORDS} to be read as one file; name a file in it")
        if reader is None:
            raise DataError(f"{path}: the suffix must be one of {', '.join(READERS)}, got {path.suffix!r}")
        text, how.notes = read_text(path)
        records = list(reader(text, str(path), how))
    if not records:
        raise DataError(f"{path}:1: the file holds no sentence; fill it or leave the task out")
    _judge_spans(how, path)
    counted = [f"{path.name}: {what}: {times:,}, the first at {where}" for what, (where, times) in how.counted.items()]
    return ReadFile(records, how.notes + counted + note_invisible(records, path.name))


def reader_of(path: Path) -> Callable[[str, str, Reading], Iterator[Record]] | None:
    """The reader for a file's name; None for a suffix that names no format."""
    suffix = path.suffix.lower()
    return read_columns if suffix in _SPLIT_SUFFIXES else READERS.get(suffix)


def _judge_spans(how: Reading, path: Path) -> None:
    if not how.span_faults:
        return
    where, fault = how.span_faults[0]
    also = f" (also at {', '.join(place for place, _ in how.span_faults[1:3])})" if len(how.span_faults) > 1 else ""
    counts = f"{len(how.span_faults):,} of {how.spans:,} spans do not fit words{also}"
    if not how.repair:
        raise DataError(
            f"{where}: {fault}; {counts}; correct them, or set tags: repair, which widens a span to whole words, "
            "keeps the first of two that overlap and drops one without a word"
        )
    how.notes.append(f"{path.name}: {counts} and were repaired, the first at {where}: {fault}")
