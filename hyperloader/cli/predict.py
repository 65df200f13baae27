"""``hyperloader predict``: sentences in, tags and spans out, line by line."""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

TOKENIZE = ("auto", "spaces", "words")


def predict(
    run_folder: Annotated[Path, typer.Argument(help="Output folder of `hyperloader train`.", metavar="RUN_FOLDER")],
    task: Annotated[str, typer.Option(help="Which of the run's tasks.")],
    input: Annotated[
        str, typer.Argument(help="A file, a folder with seq.in, or - for standard input.", metavar="[INPUT|-]")
    ] = "-",
    output: Annotated[Path | None, typer.Option(help="Write to this file and not to standard output.")] = None,
    format: Annotated[
        str,
        typer.Option(
            help="text (a sentence a line), jsonl, json, conll, csv; auto goes by the file's name, or the first line."
        ),
    ] = "auto",
    tokenize: Annotated[
        str,
        typer.Option(
            help="spaces: words are what stands between white space; words: parted from punctuation too, as in the "
            "training data; auto: words for JSON with text, spaces for plain text."
        ),
    ] = "auto",
    columns: Annotated[
        str | None,
        typer.Option(
            help="What stands where, by name or number, as tokens=2 or text=body; not in plain text.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences at a time, at most.")] = 64,
    decoding: Annotated[
        str | None,
        typer.Option(help="Read generated text by sentinel or by position, as published; if not as the run does."),
    ] = None,
    valid_tags: Annotated[
        bool | None,
        typer.Option(
            "--valid-tags/--each-word",
            help="Of a token classifier take the most probable tags that are BIO, or every word's most probable label; "
            "if not as the run does.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Tag sentences: plain text, JSON or any file that `train` reads in, one JSON object a sentence out.

    A line of text or JSONL is answered as soon as it has been read, an empty one by an answer without words. Answers
    keep the order, the number of the line and every other key of the input.
    """
    from hyperloader.cli.answers import answer, encoded
    from hyperloader.cli.columns import parse_columns
    from hyperloader.cli.inputs import FORMATS, read
    from hyperloader.data.word_rule import WordRule, split_at_spaces
    from hyperloader.training.saved_run import for_task, load_run, tag
    from hyperloader.training.word_rules import load_word_rule
    from hyperloader.validation import check_choice

    check_choice("format", format, FORMATS)
    check_choice("tokenize", tokenize, TOKENIZE)
    places = parse_columns(columns) if columns else {}
    if output is not None and input != "-" and output.exists() and os.path.samefile(input, output):
        raise ValueError(f"output must be another file than the input, got {output}")
    name = "<stdin>" if input == "-" else input
    with opened(input) as source:
        run = load_run(run_folder, decoding, valid_tags)
        check_choice("task", task, run.tasks, "tasks")

        @cache
        def rule() -> WordRule:
            return load_word_rule(run_folder, run.config, task)

        def at_words(text: str) -> list[tuple[int, int]]:
            return rule().split(text)

        if tokenize == "words":
            rule()  # what is wrong with it is said before the input is read
        plain = at_words if tokenize == "words" else split_at_spaces
        running = split_at_spaces if tokenize == "spaces" else at_words
        if input == "-" and sys.stdin.isatty():
            print("one sentence a line; Ctrl-D ends", file=sys.stderr)
        batches = read(source, name, format, plain, running, places)
        run = for_task(run, task)
        with nullcontext(sys.stdout.buffer) if output is None else open(output, "wb") as target:
            count = 0
            for inputs, fault in batches:
                tagged = tag(run, (one.tokens for one in inputs), task, batch_size)
                for one, found in zip(inputs, tagged, strict=True):
                    target.write(encoded(answer(one, task, found.tags, found.probabilities)))
                    target.flush()
                    count += 1
                if fault is not None:
                    raise fault
    if output is not None:
        print(f"{output}: {count:,} sentences", file=sys.stderr)


def opened(input: str) -> AbstractContextManager[BinaryIO | None]:
    """The input as bytes; None for a folder."""
    if input == "-":
        return nullcontext(sys.stdin.buffer)
    return nullcontext() if os.path.isdir(input) else open(input, "rb")
