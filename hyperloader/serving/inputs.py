"""What a task is asked about: words, a text, or a pair of texts, from a JSON object or from words."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, cast

from hyperloader.config import CLASSIFICATION
from hyperloader.data.kinds import Kind
from hyperloader.data.labelled_text import LabelledText, check_text, make_text
from hyperloader.data.records import Reading
from hyperloader.data.sentence import DataError, check_words
from hyperloader.data.spans_in_text import given_words, text_of
from hyperloader.data.text_readers import AnyText, TextReading
from hyperloader.data.text_readers import of_object as records_object
from hyperloader.data.word_rule import split_at_spaces
from hyperloader.data.written_text import Chat, WrittenText
from hyperloader.validation import held

Columns = Mapping[str, str | int]
Split = Callable[[str], list[tuple[int, int]]]
_PAIR = "text_pair"
_NO_COLUMNS: Columns = MappingProxyType({})


@dataclass(frozen=True)
class Input:
    """One sentence to be tagged, or one text or pair of texts to be answered.

    line: where it starts in its file, or its number, from 1. text: as given; of words alone, these joined by spaces.
    offsets: first character and character after the last of every word of ``text``; None: the task's own rule parts the
    text. given: the keys of a JSON object. text_pair: of a pair. messages: of a chat; its text is then empty.
    """

    line: int
    text: str
    offsets: list[tuple[int, int]] | None = None
    given: Mapping = field(default_factory=dict)
    text_pair: str | None = None
    messages: list | None = None

    @property
    def tokens(self) -> list[str]:
        """The words."""
        return [self.text[start:end] for start, end in self.offsets or ()]

    @property
    def is_empty(self) -> bool:
        """Whether a text has nothing but white space."""
        return not self.text.strip() or (self.text_pair is not None and not self.text_pair.strip())

    def parted(self, split: Split) -> "Input":
        """The same with its words, by ``split`` where they are not given."""
        return self if self.offsets is not None else replace(self, offsets=split(self.text))

    def example(self, name: str = "") -> LabelledText | None:
        """What a task of whole sentences is asked; None where a text is empty."""
        return None if self.is_empty else LabelledText(self.text, self.text_pair, None, name, self.line)


def of_words(tokens: Iterable[str], line: int, given: Mapping | None = None) -> Input:
    """Words, which stand in their text with a space between."""
    offsets, place = [], 0
    for token in tokens:
        offsets.append((place, place + len(token)))
        place += len(token) + 1
    return Input(line, " ".join(tokens), offsets, given or {})


def of_object(
    record: dict,
    line: int,
    name: str,
    split: Split | None = None,
    columns: Columns = _NO_COLUMNS,
    to_do: str = "add one of them",
) -> Input:
    """A JSON object with ``tokens``, with ``text``, or with both, and no second text. Whatever else it holds is not
    looked at.

    Args:
        name: of the file, for messages. to_do: the end of the message about neither.
        split: gives the words of a text alone; None leaves them to the task's rule.

    Raises:
        DataError: neither, words that are none, or a second text.
    """
    where = f"{name}:{line}"
    if record.get(_PAIR) is not None:
        raise DataError(_single(where, _PAIR))
    text = text_of(record, Reading(columns, labelled=False))
    tokens: Any = record.get(str(columns.get("tokens", "tokens")))
    if tokens is None:
        if text is None:
            key = str(columns.get("text", "text"))
            if record.get(key) is not None:
                check_text(record[key], key, where)  # refuses what is no text
            has = held(record)
            raise DataError(f"{where}: the object has no 'tokens' and no 'text', it has {has}; {to_do}")
        words = (split or split_at_spaces)(text)
        if words:
            check_words([text[start:end] for start, end in words], None, lambda position: where)
        return Input(line, text, None if split is None else words, record)
    if isinstance(tokens, list) and tokens and isinstance(tokens[0], dict):
        if text is None:
            raise DataError(f"{where}: tokens with offsets need the 'text' that they are counted in; add it")
        return Input(line, text, given_words(record, text, where) or [], record)
    if tokens != []:
        check_words(tokens, None, lambda position: where)
    offsets = None if text is None else _aligned(tokens, text)
    if text is None or offsets is None:
        return of_words(tokens, line, record)
    return Input(line, text, offsets, record)


def text_of_object(record: dict, line: int, name: str, how: TextReading, to_do: str = "add it") -> Input:
    """A JSON object with ``text``, and ``text_pair`` where the kind asks for pairs; words alone are joined by spaces.

    Raises:
        DataError: a text that is missing or none, or a second one where there is to be one alone.
    """
    key, pair_key, where = how.column("text"), how.column(_PAIR), f"{name}:{line}"
    text, pair = cast(Any, record.get(key)), record.get(pair_key)
    if text is None and "text" not in how.columns and _are_words(record.get("tokens")):
        text = " ".join(record["tokens"])
    for wanted, found in ((key, text), *([(pair_key, pair)] if how.kind.pair else [])):
        if found is None:
            has = held(record)
            raise DataError(f"{where}: the object has no {wanted!r}, it has {has}; {to_do}")
    if pair is not None and not how.kind.pair:
        raise DataError(_single(where, pair_key))
    given = Input(line, text, None, record, pair)
    for one in (text, pair):
        if not isinstance(one, str | None) or (isinstance(one, str) and one.strip()):
            make_text(one, None, None, how.kind, name, line, labelled=False)  # refuses what is no text
    return given


def _single(where: str, key: str) -> str:
    return f"{where}: the object has {key!r}, and the task is one of single texts; remove it"


def written_of_object(record: dict, line: int, name: str, how: TextReading) -> Input:
    """A JSON object with the ``source``, ``prompt`` or ``messages`` of the kind, or with ``text`` in its place.

    Raises:
        DataError: there is none of them, or one that is no text.
    """
    (key,) = how.needed
    if key not in record and "text" in record:
        return text_of_object(record, line, name, TextReading(Kind(CLASSIFICATION), {}, labelled=False))
    if isinstance(value := record.get(key), str) and not value.strip():
        return Input(line, value, None, record)
    return replace(written_input(records_object(record, name, line, how)), given=record)


def written_input(one: AnyText) -> Input:
    """The input of an example without its answer."""
    if isinstance(one, Chat):
        return Input(one.line, "", messages=[dict(message) for message in one.messages])
    return (
        Input(one.line, one.given)
        if isinstance(one, WrittenText)
        else Input(one.line, one.text, text_pair=one.text_pair)
    )


def reading_of(kind: Kind, columns: Columns = _NO_COLUMNS) -> TextReading:
    """How texts without labels of this kind are read."""
    return TextReading(kind, columns, labelled=False)


def _are_words(tokens: object) -> bool:
    return isinstance(tokens, list) and all(isinstance(one, str) for one in tokens)


def _aligned(tokens: list[str], text: str) -> list[tuple[int, int]] | None:
    """Where the words stand in the text; None unless they are all of it but white space."""
    offsets, place = [], 0
    for token in tokens:
        start = text.find(token, place)
        if start < 0 or text[place:start].strip():
            return None
        place = start + len(token)
        offsets.append((start, place))
    return None if text[place:].strip() else offsets
