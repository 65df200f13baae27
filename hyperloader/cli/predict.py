"""``hyperloader predict``: sentences in, tags and spans out, line by line."""

import os
import sys
from collections.abc import Iterator
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
    """Tag or label sentences: plain text, JSON or any file that `train` reads in, one JSON object a sentence out.

    A line of text or JSONL is answered as soon as it has been read, an empty one by an answer without words. Answers
    keep the order, the number of the line and every other key of the input. Pairs of texts in plain text are separated
    by a tab.
    """
    from hyperloader.cli.answers import answer, encoded, text_answer
    from hyperloader.cli.columns import parse_columns
    from hyperloader.cli.inputs import FORMATS, read
    from hyperloader.cli.text_inputs import read_texts
    from hyperloader.data.task_file import COLUMN_KEYS, TEXT_COLUMNS
    from hyperloader.data.word_rule import WordRule, split_at_spaces
    from hyperloader.training.saved_run import answer as answers_of
    from hyperloader.training.saved_run import for_task, load_run, tag
    from hyperloader.training.word_rules import load_word_rule
    from hyperloader.validation import check_choice

    check_choice("format", format, FORMATS)
    check_choice("tokenize", tokenize, TOKENIZE)
    places = parse_columns(columns, dict.fromkeys((*COLUMN_KEYS, *TEXT_COLUMNS))) if columns else {}
    if output is not None and input != "-" and output.exists() and os.path.samefile(input, output):
        raise ValueError(f"output must be another file than the input, got {output}")
    name = "<stdin>" if input == "-" else input
    with opened(input) as source:
        run = load_run(run_folder, decoding, valid_tags)
        check_choice("task", task, run.tasks, "tasks")
        kind = run.kinds.get(task)
        for key in places:
            check_choice("--columns", key, COLUMN_KEYS if kind is None else TEXT_COLUMNS)
        if kind is not None and tokenize != "auto":
            raise ValueError(f"tokenize must be auto for {task!r}, a {kind.name} of whole sentences, got {tokenize}")
        if kind is not None and valid_tags is not None:
            raise ValueError(f"--valid-tags and --each-word go with tagging, and {task!r} is a {kind.name}")

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
        if kind is None:
            batches: Iterator = read(source, name, format, plain, running, places)
        else:
            batches = read_texts(source, name, format, kind, places)
        run = for_task(run, task)

        def answers_to(inputs: list) -> Iterator[dict]:
            if kind is None:
                for one, tags in zip(inputs, tag(run, (one.tokens for one in inputs), task, batch_size), strict=True):
                    yield answer(one, task, tags.tags, tags.probabilities)
            else:
                said = answers_of(run, (one.example(name) for one in inputs), task, batch_size)
                for one, found in zip(inputs, said, strict=True):
                    yield text_answer(one, found, task, kind, run.labels[task])

        with nullcontext(sys.stdout.buffer) if output is None else open(output, "wb") as target:
            count = 0
            for inputs, fault in batches:
                for one in answers_to(inputs):
                    target.write(encoded(one))
                    target.flush()
                    count += 1
                if fault is not None:
                    raise fault
    cut = run.formulation.report[task].truncated
    if cut:
        length = run.formulation.max_length
        print(f"warning: {cut:,} texts or pairs are longer than {length} tokens: the first were read", file=sys.stderr)
    if output is not None:
        print(f"{output}: {count:,} sentences", file=sys.stderr)


def opened(input: str) -> AbstractContextManager[BinaryIO | None]:
    """The input as bytes; None for a folder."""
    if input == "-":
        return nullcontext(sys.stdin.buffer)
    return nullcontext() if os.path.isdir(input) else open(input, "rb")
