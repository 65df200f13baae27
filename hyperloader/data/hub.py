"""Hugging Face data sets: by name, from local files, or saved with `save_to_disk`."""

from pathlib import Path

from .sentence import DataError, Sentence, make_sentence

COLUMNS = {"tokens": "tokens", "tags": "ner_tags"}


def read_hub(
    dataset: str | Path, config: str | None, split: str, columns: dict[str, str] | None = None
) -> list[Sentence]:
    """The sentences of one split, in its order.

    Args:
        dataset: a name on the Hub, a folder that `datasets.load_dataset` reads, or one that `save_to_disk` wrote.
            Code that comes with a data set is never run.
        config: the data set's configuration, None where it has one only.
        split: `train`, `validation` or `test`.
        columns: which column holds `tokens` (default `tokens`) and which `tags` (default `ner_tags`): tags as text, or
            as numbers with ClassLabel names.

    Raises:
        DataError: the data set, split or column does not exist or cannot be had, tags are numbers without names, or a
            row is no labelled sentence; the message names data set, split and row (from 1).
    """
    import datasets

    where = f"{dataset}[{split}]"
    try:
        rows = _load(datasets, str(dataset), config, split)
    except (OSError, ValueError, RuntimeError, LookupError, ImportError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, DataError):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{where}: the data set cannot be loaded ({reason}); correct dataset, config or split"
        ) from error
    columns = COLUMNS | (columns or {})
    for column in columns.values():
        if column not in rows.column_names:
            raise DataError(
                f"{where}: there is no column {column!r}, there are {', '.join(rows.column_names)}; set columns"
            )
    names = _label_names(rows.features[columns["tags"]], where, columns["tags"])
    sentences = []
    for number, (tokens, tags) in enumerate(zip(rows[columns["tokens"]], rows[columns["tags"]], strict=True), 1):
        if names is not None and tags is not None:
            tags = _named(tags, names, f"{where}:{number}")
        if tags is None:
            raise DataError(f"{where}:{number}: the row has no tags; give every token one tag")
        sentences.append(make_sentence(tokens, tags, f"{where}:{number}"))
    if not sentences:
        raise DataError(f"{where}: the split holds no sentence; choose another")
    return sentences


def _load(datasets, dataset: str, config: str | None, split: str):
    folder = Path(dataset)
    if (folder / "dataset_dict.json").is_file():
        if config is not None:
            raise DataError(f"{dataset}: a saved data set has no configurations; remove config, got {config!r}")
        splits = datasets.load_from_disk(dataset)
        if split not in splits:
            raise DataError(f"{dataset}: there is no split {split!r}, there are {', '.join(splits)}; rename one")
        return splits[split]
    if (folder / "state.json").is_file():
        raise DataError(f"{dataset}: this is one split only; save a DatasetDict with train, validation and test")
    return datasets.load_dataset(dataset, config, split=split)


def _label_names(feature, where: str, column: str) -> list[str] | None:
    item = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    if hasattr(item, "names"):
        return item.names
    if getattr(item, "dtype", None) not in ("string", "large_string"):
        raise DataError(
            f"{where}: column {column!r} must hold lists of text or of numbers with ClassLabel names, got {feature}; "
            "cast it to ClassLabel"
        )
    return None


def _named(numbers: list[int], names: list[str], where: str) -> list[str]:
    for position, number in enumerate(numbers, 1):
        if number is None or not 0 <= number < len(names):
            raise DataError(
                f"{where}: tag {position} must be a label from 0 to {len(names) - 1}, got {number}; label it"
            )
    return [names[number] for number in numbers]
