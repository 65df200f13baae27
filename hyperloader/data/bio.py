"""BIO tags, and the simplified BIO that text-to-text models write.

Strict BIO (IOB2): ``O`` outside; a span of type X is ``B-X`` and then ``I-X`` for each further word.
Simplified BIO: ``O`` outside; a span is the bare type ``X`` and then ``I`` for each further word.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

_REPAIRS = {"E": "I", "L": "I", "M": "I", "S": "B", "U": "B", "b": "B", "i": "I"}


@lru_cache(maxsize=1 << 16)
def is_type(name: str) -> bool:
    """Whether ``name`` can be a span's type: some text without white space."""
    return bool(name) and name.split() == [name] and not any("\ud800" <= character <= "\udfff" for character in name)


def suggest(tag: str) -> str:
    """What to write in place of a tag that is not BIO."""
    prefix, dash, name = tag.partition("-")
    if dash and is_type(name) and prefix in _REPAIRS:
        return f"write '{_REPAIRS[prefix]}-{name}'"
    if tag.upper() == "O" or not tag.strip():
        return "write 'O'"
    return "write 'O', 'B-<type>' or 'I-<type>', the type without white space"


def check_bio(tags: Sequence[str]) -> None:
    """Check that ``tags`` are strict BIO.

    Raises:
        ValueError: names the position (from 1), the tag, and how to repair it.
    """
    inside = None
    for position, tag in enumerate(tags, 1):
        if tag == "O":
            inside = None
            continue
        prefix, name = tag[:2], tag[2:]
        if prefix not in ("B-", "I-") or not is_type(name):
            raise ValueError(f"tag {position} {tag!r} is no BIO tag; {suggest(tag)}")
        if prefix == "I-" and name != inside:
            raise ValueError(f"tag {position} {tag!r} starts a span; write 'B-{name}'")
        inside = name


def repair_bio(tags: Iterable[str]) -> list[str]:
    """Strict BIO from tags that may start a span with ``I-``: such an ``I-X`` becomes ``B-X``.

    This is how conlleval (and seqeval's default mode) reads them, so scores do not change.
    """
    repaired, inside = [], None
    for tag in tags:
        if tag == "O":
            inside = None
        else:
            if tag[:2] == "I-" and tag[2:] != inside:
                tag = f"B-{tag[2:]}"
            inside = tag[2:]
        repaired.append(tag)
    return repaired


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The spans of strict BIO ``tags`` as (type, first word, word after the last)."""
    found, start = [], None
    for position, tag in enumerate(tags):
        if start is not None and tag[0] != "I":
            found.append((tags[start][2:], start, position))
            start = None
        if tag[0] == "B":
            start = position
    if start is not None:
        found.append((tags[start][2:], start, len(tags)))
    return found


def simplify(tags: Sequence[str]) -> list[str]:
    """Simplified BIO of ``tags``, which may begin inside a span (a later part of a sentence): that is ``I`` too.

    Raises:
        ValueError: a type is named ``O`` or ``I``, which the simplified form cannot tell from its own two marks.
    """
    simple = []
    for position, tag in enumerate(tags, 1):
        if tag == "O":
            simple.append("O")
        elif tag[:2] == "I-":
            simple.append("I")
        elif tag[2:] in ("O", "I"):
            raise ValueError(
                f"tag {position} {tag!r} has a type that simplified BIO keeps for itself; rename the type {tag[2:]!r}"
            )
        else:
            simple.append(tag[2:])
    return simple


def restore(simple: Iterable[str], length: int) -> list[str]:
    """Strict BIO of exactly ``length`` tags from anything that a model may have written.

    Every entry counts by its first word; an empty one is ``O``, and so is an ``I`` with no span before it. What is
    missing is filled with ``O``, what is too much is cut. For gold tags ``restore(simplify(tags), len(tags)) == tags``.
    """
    tags: list[str] = []
    inside = None
    for entry in simple:
        if len(tags) == length:
            break
        words = entry.split()
        name = words[0] if words else "O"
        if name == "I" and inside is not None:
            tags.append(f"I-{inside}")
        elif name in ("O", "I"):
            tags.append("O")
            inside = None
        else:
            tags.append(f"B-{name}")
            inside = name
    return tags + ["O"] * (length - len(tags))


def label_list(sentences: Iterable) -> list[str]:
    """All labels of ``sentences``: ``O``, then ``B-X``, ``I-X`` for every type X in sorted order, both even where only
    one occurs.
    """
    types = {tag[2:] for sentence in sentences for tag in sentence.tags if tag != "O"}
    return ["O"] + [f"{prefix}-{name}" for name in sorted(types) for prefix in "BI"]
