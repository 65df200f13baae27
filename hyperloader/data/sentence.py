"""A labelled sentence, and the error that every fault in a user's data raises."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from hyperloader.data.bio import check_bio

_T = TypeVar("_T")
_SHORT = 64  # characters


def kept_if_short(function: Callable[[str], _T], most: int) -> Callable[[str], _T]:
    """``function``, which looks at a short text once and keeps what it found, of the ``most`` latest ones; long ones
    would fill the memory of a server."""
    known = lru_cache(most)(function)
    return lambda text: known(text) if len(text) <= _SHORT else function(text)


class DataError(ValueError):
    """A fault in a user's data or task file; the message reads ``FILE:LINE: what is wrong; what to do``."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence: ``tokens`` (words) and as many BIO ``tags``.

    Raises ValueError when the two differ in length.
    """

    tokens: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def content(self) -> tuple[str, ...]:
        """What the model sees: the words."""
        return self.tokens

    @property
    def gold(self) -> list[str]:
        """What is to be predicted: the tags."""
        return list(self.tags)

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.tags):
            raise ValueError(f"tags must be as many as tokens, got {len(self.tags)} tags for {len(self.tokens)} tokens")


def _fault(token: str) -> str | None:
    if not token:
        return "is empty; remove it together with its tag"
    if token.split() != [token]:
        space = next(character for character in token if character.isspace())
        named = "" if space == " " else f" ({describe_character(space)})"
        return f"{token!r} holds white space{named}; split it into several tokens with a tag each"
    if any("\ud800" <= character <= "\udfff" for character in token):
        return f"{token!r} holds half of a surrogate pair, which is no text; repair it"
    return None


_token_fault = kept_if_short(_fault, 1 << 17)


def describe_character(character: str) -> str:
    """``U+00A0 no-break space``: what cannot be seen, by number and name."""
    name = unicodedata.name(character, "carriage return" if character == "\r" else "control character").lower()
    return f"U+{ord(character):04X} {name}"


def check_words(tokens: Sequence, tags: Sequence | None, where: Callable[[int | None], str]) -> None:
    """Check that ``tokens`` are words, and ``tags`` as many texts or as many numbers, whatever they say.

    Args:
        where: gives ``FILE:LINE`` of the sentence for None, of a word for its position (from 0).

    Raises:
        DataError: as ``make_sentence``.
    """
    kinds = {"tokens": (str,), "tags": (str, int)}
    for name, values in (("tokens", tokens), ("tags", tags)):
        if values is None and name == "tags":
            continue
        if not isinstance(values, (list, tuple)):
            raise DataError(f"{where(None)}: {name} must be a list of text, got {type(values).__name__}")
        for position, value in enumerate(values):
            if not isinstance(value, kinds[name]) or isinstance(value, bool) or type(value) is not type(values[0]):
                raise DataError(
                    f"{where(None)}: {name} must be a list of text, got {value!r} at position {position + 1}"
                )
    if not tokens:
        raise DataError(f"{where(None)}: the sentence is empty; remove it or give it tokens")
    if tags is not None and len(tokens) != len(tags):
        raise DataError(
            f"{where(None)}: tokens and tags must be equally many, got {len(tokens)} tokens and {len(tags)} tags; "
            "give every token one tag"
        )
    for position, token in enumerate(tokens):
        fault = _token_fault(token)
        if fault:
            raise DataError(f"{where(position)}: token {position + 1} {fault}")


def make_sentence(tokens: Sequence[str], tags: Sequence[str] | None, where: str) -> Sentence:
    """A checked sentence.

    Args:
        tokens: the words: text, none empty or with white space.
        tags: one strict BIO tag a word (``O``, ``B-<type>``, ``I-<type>``); None for a sentence without tags, which
            gets ``O``.
        where: the start of every error message, as ``FILE:LINE``.

    Raises:
        DataError: no words, unequal lengths, a token or tag that is no text, an empty token or one with white space,
            tags that are no BIO.
    """
    check_words(tokens, tags, lambda position: where)
    if tags is None:
        tags = ("O",) * len(tokens)
    for position, tag in enumerate(tags, 1):
        if not isinstance(tag, str):
            raise DataError(f"{where}: tags must be a list of text, got {tag!r} at position {position}")
    try:
        check_bio(tags)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    return Sentence(tuple(tokens), tuple(tags))
