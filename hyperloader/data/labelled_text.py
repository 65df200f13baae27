"""A text, or a pair of texts, with the label of the whole: checked, every fault with its place."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hyperloader.config import CLASSIFICATION, MULTI_LABEL, REGRESSION
from hyperloader.data.kinds import Kind
from hyperloader.data.sentence import DataError
from hyperloader.validation import shown

Label = str | tuple[str, ...] | float | None


@dataclass(frozen=True, slots=True)
class LabelledText:
    """One example of a task of whole sentences.

    label: the label's name, of a multi-label task a tuple of them, of a regression a number; None where none was asked
    for. path, line: where it stands.
    """

    text: str
    text_pair: str | None
    label: Label
    path: str = ""
    line: int = 0

    @property
    def content(self) -> tuple[str, ...]:
        """What the model sees."""
        return (self.text,) if self.text_pair is None else (self.text, self.text_pair)

    @property
    def gold(self) -> Label:
        """What is to be predicted."""
        return self.label

    @property
    def where(self) -> str:
        """``FILE:LINE``."""
        return f"{self.path}:{self.line}"


def make_text(
    text: Any,
    text_pair: Any,
    label: Any,
    kind: Kind,
    path: str,
    line: int,
    *,
    names: Sequence[str] | None = None,
    labelled: bool = True,
) -> LabelledText:
    """A checked example.

    Args:
        names: what whole numbers as labels stand for.
        labelled: False leaves the label out, whatever it is.

    Raises:
        DataError: an empty text, or none; a label that does not fit the kind.
    """
    where = f"{path}:{line}"
    check_text(text, "text", where)
    if text_pair is not None:
        check_text(text_pair, "text_pair", where)
    if not labelled:
        return LabelledText(text, text_pair, None, path, line)
    return LabelledText(text, text_pair, _label(label, kind.name, where, names), path, line)


def check_text(text: Any, key: str, where: str) -> None:
    """Raise ``DataError`` unless ``text`` is text and not empty."""
    if not isinstance(text, str):
        raise DataError(f"{where}: {key} must be text, got {shown(text)}; put it in quotes")
    if not text.strip():
        raise DataError(f"{where}: {key} is empty; write a text, or remove the line")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(f"{where}: {key} holds half of a surrogate pair, which is no text; repair it")


def _label(label: Any, kind: str, where: str, names: Sequence[str] | None) -> Label:
    if kind == REGRESSION:
        return _number(label, where)
    if kind == CLASSIFICATION:
        if isinstance(label, list):
            raise DataError(f"{where}: label must be one label, got {shown(label)}; for several set multi_label: true")
        return _name(label, where, names)
    if not isinstance(label, list):
        raise DataError(f"{where}: label must be a list of labels with {MULTI_LABEL}, got {shown(label)}; write [...]")
    found = tuple(_name(one, where, names) for one in label)
    if len(set(found)) < len(found):
        raise DataError(f"{where}: label must name each label once, got {shown(label)}; remove one")
    return tuple(sorted(found))


def _number(label: Any, where: str) -> float:
    if isinstance(label, bool) or not isinstance(label, int | float):
        raise DataError(f"{where}: label must be a number for a regression, got {shown(label)}; correct it")
    try:
        value = float(label)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise DataError(f"{where}: label must be a finite number, got {shown(label)}; correct it or remove the line")
    return value


def _name(label: Any, where: str, names: Sequence[str] | None) -> str:
    if isinstance(label, int) and not isinstance(label, bool):
        if names is None:
            return str(label)
        if not 0 <= label < len(names):
            raise DataError(f"{where}: label must be from 0 to {len(names) - 1}, got {label}; correct it or names")
        return names[label]
    if not isinstance(label, str):
        raise DataError(f"{where}: label must be text or a whole number, got {shown(label)}; give every line a label")
    if names is not None:
        raise DataError(f"{where}: label is text, got {shown(label)}, and names go with numbers; remove names")
    if label.strip() != label or not label:
        fault = "has white space at its ends" if label.strip() else "is empty"
        raise DataError(f"{where}: label {label!r} {fault}; correct it")
    return label


def check_pair(one: LabelledText, pair: bool, task: str) -> None:
    """Raise ``ValueError`` unless ``one`` is a pair where the task is one of pairs, and else none."""
    if (one.text_pair is not None) == pair:
        return
    where = f"{one.where}: " if one.path else ""
    if pair:
        raise ValueError(f"{where}task {task!r} is one of pairs, and there is no text_pair; add it")
    raise ValueError(f"{where}task {task!r} is one of single texts, and there is a text_pair; remove it")
