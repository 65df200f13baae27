"""`hyperloader predict`: sentences in, tags out, line by line."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

FORMATS = ("auto", "jsonl", "text")


def predict(
    run_folder: Annotated[Path, typer.Argument(help="Output folder of `hyperloader train`.", metavar="RUN_FOLDER")],
    task: Annotated[str, typer.Option(help="Which of the run's tasks.")],
    input: Annotated[str, typer.Argument(help="A file, or - for standard input.", metavar="[INPUT|-]")] = "-",
    output: Annotated[Path | None, typer.Option(help="Write to this file and not to standard output.")] = None,
    format: Annotated[
        str, typer.Option(help="auto, jsonl ({'tokens': [...]} a line) or text (words a line).")
    ] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences at a time, at most.")] = 64,
    decoding: Annotated[
        str | None,
        typer.Option(help="Read generated text by sentinel or by position, as published; if not as the run does."),
    ] = None,
) -> None:
    """Tag sentences: JSONL or plain text in, one {"tokens", "tags"} a line out.

    A line is answered as soon as it has been read. Plain text is split at white space; empty lines are skipped.
    """
    from hyperloader.training.run import for_task, load_run
    from hyperloader.training.run import predict as predict_tags
    from hyperloader.validation import check_key

    check_key("format", format, FORMATS)
    if output is not None and input != "-" and output.exists() and os.path.samefile(input, output):
        raise ValueError(f"output must be another file than the input, got {output}")
    with nullcontext(sys.stdin.buffer) if input == "-" else open(input, "rb") as source:
        run = load_run(run_folder, decoding)
        check_key("task", task, run.tasks)
        run = for_task(run, task)
        if input == "-" and sys.stdin.isatty():
            print("one sentence a line; Ctrl-D ends", file=sys.stderr)
        with nullcontext(sys.stdout.buffer) if output is None else open(output, "wb") as target:
            count = 0
            for sentences, fault in read(source, "<stdin>" if input == "-" else input, format):
                for words, tags in zip(sentences, predict_tags(run, sentences, task, batch_size), strict=True):
                    target.write(json.dumps({"tokens": words, "tags": tags}, ensure_ascii=False).encode() + b"\n")
                    target.flush()
                    count += 1
                if fault is not None:
                    raise fault
    if output is not None:
        print(f"{output}: {count:,} sentences", file=sys.stderr)


def read(source: BinaryIO, name: str, format: str) -> Iterator[tuple[list[tuple[str, ...]], ValueError | None]]:
    """The sentences of a stream, as many at a time as are there without waiting for more.

    Args:
        source: bytes; a line is a sentence.
        name: stands in messages.
        format: one of `FORMATS`; `auto` is jsonl if the file's name or the first line says so.

    Yields:
        the words of each sentence, and what is wrong with the line after them, which is the last that is read.
    """
    from hyperloader.data.sentence import DataError

    parse = {"jsonl": _json_words, "text": _plain_words}.get(format)
    if parse is None and name.endswith(".jsonl"):
        parse = _json_words
    for first_number, lines in _arriving_lines(source):
        sentences: list[tuple[str, ...]] = []
        for number, line in enumerate(lines, first_number):
            try:
                text = _text(line, f"{name}:{number}", first=number == 1)
                if text.strip():
                    parse = parse or (_json_words if text.lstrip().startswith("{") else _plain_words)
                    sentences.append(parse(text, f"{name}:{number}"))
            except DataError as error:
                yield sentences, error
                return
        yield sentences, None


def _json_words(line: str, where: str) -> tuple[str, ...]:
    from hyperloader.data.readers import parse_json_line

    return parse_json_line(line, where, labelled=False).tokens


def _plain_words(line: str, where: str) -> tuple[str, ...]:
    return tuple(line.split())


def _text(line: bytes, where: str, first: bool) -> str:
    from hyperloader.data.sentence import DataError

    try:
        return line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        byte = line[error.start]
        raise DataError(f"{where}: byte 0x{byte:02x} is not UTF-8; convert the input to UTF-8") from None


def _arriving_lines(source: BinaryIO) -> Iterator[tuple[int, list[bytes]]]:
    """(number of the first line, the complete lines that one read has brought), never waiting for a full buffer."""
    number, rest = 1, b""
    while data := source.read1(1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        if lines:
            yield number, lines
            number += len(lines)
    if rest:
        yield number, [rest]
