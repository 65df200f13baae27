"""``hyperloader predict``: sentences in, tags and spans out, line by line."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from hyperloader.processes import gathered, is_main_process, join_others, process_count, process_number, wait_for_others

if TYPE_CHECKING:
    from hyperloader.serving.inputs import Input
    from hyperloader.serving.predictor import Predictor
    from hyperloader.training.saved_run import Run

TOKENIZE = ("auto", "spaces", "words")


def predict(
    run_folder: Annotated[Path, typer.Argument(help="Output folder of `hyperloader train`.", metavar="RUN_FOLDER")],
    input: Annotated[
        str, typer.Argument(help="A file, a folder with seq.in, or - for standard input.", metavar="[INPUT|-]")
    ] = "-",
    task: Annotated[
        list[str] | None,
        typer.Option(help="Which of the run's tasks; again for another one. All of them if none.", show_default=False),
    ] = None,
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
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Sentences at a time, at most; else by their lengths.", show_default=False),
    ] = None,
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
    keep the order, the number of the line and every other key of the input; with several tasks a sentence has an answer
    of each, and a JSON object that names its `task`, which must be among them, one of that alone. Pairs of texts in
    plain text are separated by a tab.
    """
    from tqdm import tqdm

    from hyperloader.cli.columns import parse_columns
    from hyperloader.cli.inputs import FORMATS
    from hyperloader.data.kinds import TASK_KINDS
    from hyperloader.data.task_file import COLUMN_KEYS
    from hyperloader.data.text_readers import columns_of
    from hyperloader.serving.answers import encoded
    from hyperloader.serving.memory import keep_few_kernels
    from hyperloader.serving.predictor import Predictor, Question
    from hyperloader.serving.tagger import WINDOW, word_splits
    from hyperloader.training.saved_run import check_tasks, for_task, load_run
    from hyperloader.validation import check_choice

    check_choice("format", format, FORMATS)
    check_choice("tokenize", tokenize, TOKENIZE)
    keys = dict.fromkeys((*COLUMN_KEYS, *(key for kind in TASK_KINDS[1:] for key in columns_of(kind))))
    places = parse_columns(columns, keys) if columns else {}
    if input == "-" and process_count() > 1:
        raise ValueError(f"input must be a file or a folder for {process_count()} processes, got standard input")
    if output is not None and is_main_process() and (output.is_dir() or not output.parent.is_dir()):
        raise ValueError(f"output must be a file in a folder that is there, got {output}")
    if output is not None and input != "-" and output.exists() and os.path.samefile(input, output):
        raise ValueError(f"output must be another file than the input, got {output}")
    join_others()
    main, number = is_main_process(), process_number()
    with opened(input) as source:
        keep_few_kernels()
        check_tasks(run_folder, task or ())
        run = load_run(run_folder, decoding, valid_tags)
        tasks = list(dict.fromkeys(task or run.tasks))
        _check(run, tasks, tokenize, valid_tags, places)
        splits = word_splits(run, run_folder)
        if tokenize == "words":
            for one in tasks:
                splits[one]("")  # what is wrong with its rule is said before the input is read
        if input == "-" and sys.stdin.isatty():
            print("one sentence a line; Ctrl-D ends", file=sys.stderr)
        predictor = Predictor(run, splits)
        batches = _inputs(predictor, tasks, source, "<stdin>" if input == "-" else input, format, tokenize, places)
        if len(tasks) == 1:
            predictor = Predictor(for_task(run, tasks[0]), splits)
        with (
            nullcontext(sys.stdout.buffer) if output is None or not main else open(output, "wb") as target,
            tqdm(unit=" sentences", disable=not main or (output is None and sys.stdout.isatty()) or None) as progress,
        ):
            count = 0
            for inputs, fault in batches:
                for start in range(0, len(inputs), WINDOW):
                    window = inputs[start : start + WINDOW]
                    questions = [Question(one, given) for given in window for one in _asked(run, tasks, given)]
                    own = questions[number :: process_count()]
                    lines = gathered([encoded(answer) for answer in predictor.answers(own, batch_size)])
                    if main:
                        target.writelines(lines)
                        target.flush()
                    count += len(window)
                    progress.update(len(window))
                if fault is not None:
                    wait_for_others()  # the answers before it are written then
                    raise fault
    cut = sum(gathered([run.formulation.report[one].truncated for one in tasks]))
    if cut and main:
        length = run.formulation.max_length
        print(f"warning: {cut:,} texts or pairs are longer than {length} tokens: the first were read", file=sys.stderr)
    if output is not None and main:
        print(f"{output}: {count:,} sentences", file=sys.stderr)


def opened(input: str) -> AbstractContextManager[BinaryIO | None]:
    """The input as bytes; None for a folder."""
    if input == "-":
        return nullcontext(sys.stdin.buffer)
    return nullcontext() if os.path.isdir(input) else open(input, "rb")


def _check(run: "Run", tasks: Sequence[str], tokenize: str, valid_tags: bool | None, places: Mapping) -> None:
    """Raise ``ValueError`` for options that none of the tasks has a use for."""
    from hyperloader.data.task_file import COLUMN_KEYS
    from hyperloader.data.text_readers import columns_of
    from hyperloader.validation import check_choice

    tagging = [task for task in tasks if task not in run.kinds]
    for key in places:
        check_choice("--columns", key, COLUMN_KEYS if tagging else columns_of(run.kinds[tasks[0]].name))
    if not tagging:
        task, kind = tasks[0], run.kinds[tasks[0]].name
        if tokenize != "auto":
            raise ValueError(f"tokenize must be auto for {task!r}, a {kind} of whole sentences, got {tokenize}")
        if valid_tags is not None:
            raise ValueError(f"--valid-tags and --each-word go with tagging, and {task!r} is a {kind}")


def _asked(run: "Run", tasks: Sequence[str], given: "Input") -> Sequence[str]:
    """The task that an input names, else all; raises ``ValueError`` where these are of pairs and of texts."""
    named: Any = given.given.get("task")
    if named in tasks:
        return [named]
    pairs = [task for task in tasks if task in run.kinds and run.kinds[task].pair]
    if pairs and len(pairs) < len(tasks):
        other = next(task for task in tasks if task not in pairs)
        raise ValueError(f"task must be of pairs of texts, or of none, got {pairs[0]!r}, which is, and {other!r}")
    return tasks


def _inputs(
    predictor: "Predictor",
    tasks: Sequence[str],
    source: BinaryIO | None,
    name: str,
    format: str,
    tokenize: str,
    places: Mapping,
) -> Iterable:
    """The inputs as they arrive: as a task takes them that they name or that is the only one, else as words unless all
    tasks are of whole sentences."""
    from hyperloader.cli.inputs import read
    from hyperloader.cli.text_inputs import read_texts
    from hyperloader.config import CLASSIFICATION
    from hyperloader.data.kinds import Kind
    from hyperloader.data.sentence import DataError
    from hyperloader.data.word_rule import split_at_spaces
    from hyperloader.validation import check_choice

    kinds = predictor.run.kinds

    def own(record: dict, number: int) -> "Input | None":
        task: Any = record.get("task")
        if task is None or "task" in places.values():
            return None
        try:
            check_choice("task", task, tasks, "tasks")
        except ValueError as error:
            raise DataError(f"{name}:{number}: {error}") from None
        return predictor.forms[task].read(record, number, name) if len(tasks) > 1 else None

    if all(task in kinds for task in tasks):
        same = len({kinds[task].name for task in tasks}) == 1 and kinds[tasks[0]].written
        kind = kinds[tasks[0]] if same else Kind(CLASSIFICATION, all(kinds[task].pair for task in tasks))
        return read_texts(source, name, format, kind, places, own)
    plain = None if tokenize == "words" else split_at_spaces
    running = split_at_spaces if tokenize == "spaces" else None
    return read(source, name, format, plain, running, places, own)
