"""Hugging Face data sets: by name, from local files, or saved with ``save_to_disk``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperloader.config import REGRESSION
from hyperloader.data.records import Record, make_record
from hyperloader.data.schemes import read_scheme
from hyperloader.data.sentence import DataError, Sentence
from hyperloader.data.splits import SPLIT_NAMES
from hyperloader.data.tag_names import name_tags
from hyperloader.data.text_readers import AnyText, TextReading
from hyperloader.validation import listed

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = {"tokens": "tokens", "tags": "ner_tags"}


def read_hub(
    dataset: str | Path, config: str | None, split: str, columns: Mapping[str, str] | None = None
) -> list[Sentence]:
    """The sentences of one split, in its order, in strict BIO; arguments and errors are those of ``hub_records``."""
    sentences, _ = read_scheme({split: hub_records(dataset, config, split, columns)})
    return sentences[split]


def hub_records(
    dataset: str | Path,
    config: str | None,
    split: str,
    columns: Mapping[str, str | int] | None = None,
    name: str | None = None,
    names: Sequence[str] | None = None,
) -> list[Record]:
    """The sentences of one split, in its order, with tags as text in the data set's own scheme.

    Args:
        dataset: a name on the Hub, a folder that ``datasets.load_dataset`` reads, or one that ``save_to_disk`` wrote.
            Code that comes with a data set is never run.
        config: the data set's configuration, None where it has one only.
        split: ``train``, ``validation`` or ``test``, or another name for it that the data set has, as ``dev``.
        columns: which column holds ``tokens`` (default ``tokens``) and which ``tags`` (default ``ner_tags``): tags as
            text, or as numbers with ClassLabel names.
        name: the split as the data set names it, if that is not one of the usual names; also ``train[90%:]``.
        names: what numbers without ClassLabel names stand for.

    Raises:
        DataError: the data set, split or column does not exist or cannot be had, tags are numbers without names, or a
            row is no labelled sentence; the message names data set, split and row (from 1).
    """
    where, rows = f"{dataset}[{split}]", _rows(str(dataset), config, split, name)
    columns = COLUMNS | {key: str(value) for key, value in (columns or {}).items()}
    _check_columns(rows, (columns["tokens"], columns["tags"]), where)
    names = _label_names(rows.features[columns["tags"]], where, columns["tags"], names)
    records = []
    for number, (tokens, tags) in enumerate(zip(rows[columns["tokens"]], rows[columns["tags"]], strict=True), 1):
        if tags is None:
            raise DataError(f"{where}:{number}: the row has no tags; give every token one tag")
        if names is not None and None in tags:
            position = tags.index(None) + 1
            raise DataError(
                f"{where}:{number}: tag {position} must be a label from 0 to {len(names) - 1}, got None; label it"
            )
        records.append(make_record(tokens, tags, where, number))
    if not records:
        raise DataError(f"{where}: the split holds no sentence; choose another")
    return name_tags(records, names)


def hub_texts(dataset: str | Path, config: str | None, split: str, name: str | None, how: TextReading) -> list[AnyText]:
    """The examples of one split of a task of whole sentences, in its order; arguments and errors as ``hub_records``.

    Labels that are numbers of a ClassLabel are its names.
    """
    where, rows = f"{dataset}[{split}]", _rows(str(dataset), config, split, name)
    _check_columns(rows, how.needed, where)
    feature = None if how.kind.written else rows.features[how.column("label")]
    own = getattr(getattr(feature, "feature", feature), "names", None)  # of a label, or of a list of labels
    if own is not None and how.kind.name != REGRESSION:
        if how.names is not None and list(how.names) != list(own):
            raise DataError(f"{where}: its labels have names of their own, {listed(own, 'labels')}; remove names")
        how = replace(how, names=own)
    examples = [how.of_values(row, where, number) for number, row in enumerate(rows, 1)]
    if not examples:
        raise DataError(f"{where}: the split holds no text; choose another")
    return examples


def _rows(dataset: str, config: str | None, split: str, name: str | None) -> "Dataset":
    import datasets

    try:
        return _load(dataset, config, split, name)
    except (OSError, ValueError, RuntimeError, LookupError, ImportError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, DataError):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{dataset}[{split}]: the data set cannot be loaded ({reason}); correct dataset, config or splits"
        ) from error


def _check_columns(rows: "Dataset", needed: Iterable[str], where: str) -> None:
    for column in needed:
        if column not in rows.column_names:
            raise DataError(
                f"{where}: there is no column {column!r}, there are {listed(rows.column_names, 'columns')}; set columns"
            )


def _load(dataset: str, config: str | None, split: str, name: str | None) -> "Dataset":
    import datasets

    folder = Path(dataset)
    if (folder / "state.json").is_file():
        raise DataError(f"{dataset}: this is one split only; save a DatasetDict with train, validation and test")
    if (folder / "dataset_dict.json").is_file():
        if config is not None:
            raise DataError(f"{dataset}: a saved data set has no configurations; remove config, got {config!r}")
        splits = datasets.load_from_disk(dataset)
    elif name is not None and "[" in name:
        return datasets.load_dataset(dataset, config, split=name)
    else:
        splits = datasets.load_dataset(dataset, config)
    wanted = [name] if name is not None else [split, *SPLIT_NAMES[split]]
    found = [one for one in wanted if one in splits]
    if not found:
        carved = f", or splits: {{{split}: 10%}} takes it from train" if split != "train" else ""
        raise DataError(
            f"{dataset}: there is no split {name or split!r}, there are {listed(splits, 'splits')}; rename one, or "
            f"name it with splits: {{{split}: NAME}}{carved}"
        )
    return splits[found[0]]


def _label_names(feature: Any, where: str, column: str, names: Sequence[str] | None) -> Sequence[str] | None:
    item: Any = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    if hasattr(item, "names"):
        if names is not None and list(names) != list(item.names):
            raise DataError(f"{where}: column {column!r} has names of its own, {listed(item.names)}; remove names")
        return item.names
    kind = str(getattr(item, "dtype", None))
    if "int" in kind and names is not None:
        return names
    if kind not in ("string", "large_string"):
        raise DataError(
            f"{where}: column {column!r} must hold lists of text or of numbers with ClassLabel names, got {feature}; "
            "cast it to ClassLabel, or say what the numbers stand for with names: [O, B-..., I-...]"
        )
    if names is not None:
        raise DataError(f"{where}: column {column!r} holds text, and names go with numbers; remove names")
    return None
