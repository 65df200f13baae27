"""Tags that are numbers, and the names that they stand for."""

from collections.abc import Sequence
from dataclasses import replace

from hyperloader.data.records import Record
from hyperloader.data.sentence import DataError


def name_tags(records: list[Record], names: Sequence[str] | None) -> list[Record]:
    """The records with tags as text: number n becomes ``names[n]``.

    Raises:
        DataError: tags are numbers and there are no names, or the other way round; a number without a name.
    """
    if names is None:
        for record in records:
            if isinstance(record.tags[0], int):
                raise DataError(
                    f"{record.where()}: the tags are numbers; say what they stand for with names: [O, B-..., I-...]"
                )
        return records
    return [
        replace(record, tags=tuple(_named(record, position, names) for position in range(len(record.tags))))
        for record in records
    ]


def _named(record: Record, position: int, names: Sequence[str]) -> str:
    tag = record.tags[position]
    number = int(tag) if isinstance(tag, str) and tag.isdecimal() and tag.isascii() else tag
    if not isinstance(number, int) or not 0 <= number < len(names):
        raise DataError(
            f"{record.where(position)}: tag {position + 1} must be a label from 0 to {len(names) - 1}, got {tag}; "
            "label it, or correct names"
        )
    return names[number]
