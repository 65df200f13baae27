"""``hyperloader data convert``: any format that is read, as JSONL with BIO tags."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hyperloader.data.sentence import Sentence
    from hyperloader.data.task_file import TaskEntry

_FILE_OR_SHARE = "Its file in IN, or a share of train, as 10%."


def convert(
    source: Annotated[Path, typer.Argument(help="A file of sentences, or a folder with splits.", metavar="IN")],
    target: Annotated[Path, typer.Argument(help="A new .jsonl file, or a new folder.", metavar="OUT")],
    tags: Annotated[
        str | None, typer.Option(help="bio, iob1, iobes, bilou or repair; found if left out.", show_default=False)
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Columns by name or number, as tokens=2,tags=4.", show_default=False)
    ] = None,
    names: Annotated[
        str | None, typer.Option(help="Of tags that are numbers, as O,B-city,I-city.", show_default=False)
    ] = None,
    train: Annotated[str | None, typer.Option(help="Its file in IN.", show_default=False)] = None,
    validation: Annotated[str | None, typer.Option(help=_FILE_OR_SHARE, show_default=False)] = None,
    test: Annotated[str | None, typer.Option(help=_FILE_OR_SHARE, show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of a share.", show_default=False)] = None,
) -> None:
    """Write sentences as JSONL with BIO tags: of a file to a file, of a folder to train, validation and test in a
    folder.

    Says how the input was read. What is wrong with it is said before anything is written.
    """
    from hyperloader.cli.columns import parse_columns
    from hyperloader.data.task_file import COLUMN_KEYS, entry_from

    splits: dict[str, Any] = {"train": train, "validation": validation, "test": test, "seed": seed}
    splits = {key: value for key, value in splits.items() if value is not None}
    whole = source.is_dir() and not (source / "seq.in").is_file()
    _check_target(target, whole, source)
    if splits and not whole:
        raise ValueError(f"--{next(iter(splits))} goes with a folder that holds splits, got {source}")
    values: dict[str, Any] = {"name": source.name, "path": str(source), "tags": tags, "splits": splits or None}
    values["columns"] = parse_columns(columns, COLUMN_KEYS) if columns else None
    values["names"] = names.split(",") if names else None
    entry = entry_from({key: value for key, value in values.items() if value is not None}, "command line")
    found, notes = (_read_folder if whole else _read_file)(source, entry)
    for note in notes:
        print(f"note: {note}")
    if whole:
        target.mkdir(parents=True)
    for split, sentences in found.items():
        path = target / f"{split}.jsonl" if whole else target
        _write(path, sentences)
        spans = sum(tag[0] == "B" for sentence in sentences for tag in sentence.tags)
        print(f"{path}: {len(sentences):,} sentences, {spans:,} spans")


def _check_target(target: Path, folder: bool, source: Path) -> None:
    if not source.exists():
        raise ValueError(f"{source}: the file or folder does not exist; correct IN")
    if target.exists():
        raise ValueError(f"{target}: there is something already; remove it or choose another OUT")
    if not folder and target.suffix != ".jsonl":
        raise ValueError(f"OUT must be a .jsonl file, got {target}")
    if folder and target.suffix == ".jsonl":
        raise ValueError(f"OUT must be a folder, as {source} is one, got {target}")


def _read_folder(source: Path, entry: "TaskEntry") -> tuple[dict[str, list["Sentence"]], list[str]]:
    from hyperloader.data.splits import SPLITS, contents, split_of
    from hyperloader.data.tasks import load_splits

    there = {split_of(path) for path in source.iterdir()} | entry.splits.keys()
    if entry.shares:
        there.add("train")  # which they are taken from
    wanted = [split for split in SPLITS if split in there and split not in entry.shares]
    if not wanted:
        raise ValueError(f"{source}: must hold a file of train, validation or test, got {contents(source)}")
    found, notes = load_splits(entry, wanted)
    return {split: found[split] for split in SPLITS if split in found}, notes


def _read_file(source: Path, entry: "TaskEntry") -> tuple[dict[str, list["Sentence"]], list[str]]:
    from hyperloader.data.readers import read_file
    from hyperloader.data.schemes import read_scheme
    from hyperloader.data.tag_names import name_tags

    numbered, repair = entry.names is not None, entry.tags == "repair"
    read = read_file(source, columns=entry.columns, numbered=numbered, repair=repair)
    found, notes = read_scheme({source.name: name_tags(read.records, entry.names)}, entry.tags)
    return found, read.notes + notes


def _write(path: Path, sentences: list["Sentence"]) -> None:
    from hyperloader.checkpoints.atomic import write_text

    path.parent.mkdir(parents=True, exist_ok=True)
    records = ({"tokens": sentence.tokens, "tags": sentence.tags} for sentence in sentences)
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
