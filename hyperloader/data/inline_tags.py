"""Tags written into their sentence: ``fly to [ new york | city ] now``."""

import re
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

from hyperloader.data.bio import spans
from hyperloader.data.examples import EncodingReport
from hyperloader.data.sentence import Sentence
from hyperloader.data.windows import split_windows

_MARK = re.compile(r"\\*[\[\]|]")  # one that stands in the sentence itself gets a backslash in front


def write_inline(words: Sequence[str], tags: Sequence[str]) -> str:
    """``words`` with the spans of strict BIO ``tags`` (which may begin inside a span, that is then left out)."""
    written = ["\\" + word if _MARK.fullmatch(word) else word for word in words]
    for label, first, after in reversed(spans(tags)):
        written[first:after] = ["[", *written[first:after], "|", label, "]"]
    return " ".join(written)


def read_inline(text: str, words: Sequence[str]) -> list[str]:
    """Strict BIO tags of ``words`` from what a model has written about them, whatever that is.

    The words of the text are aligned with ``words``; a span is the words from the first to the last that its own are
    aligned with, and is left out where there are none or where it overlaps the span before it.
    """
    found, written, start = list[tuple[str, int, int]](), list[str](), None
    pieces = iter(text.split())
    for piece in pieces:
        if piece == "[":
            start = len(written)
        elif piece == "|":
            label = next(pieces, None)
            if start is not None and label is not None and start < len(written):
                found.append((label, start, len(written)))
            start = None
        elif piece != "]":
            written.append(piece[1:] if piece[0] == "\\" and _MARK.fullmatch(piece) else piece)
    places: dict[int, int] = {}
    for kind, first, after, to, to_after in SequenceMatcher(None, written, words, autojunk=False).get_opcodes():
        if kind == "equal" or (kind == "replace" and after - first == to_after - to):
            places |= zip(range(first, after), range(to, to_after), strict=True)
    tags, free = ["O"] * len(words), 0
    for label, first, after in found:
        own = [places[place] for place in range(first, after) if place in places]
        if own and own[0] >= free:
            free = own[-1] + 1
            tags[own[0] : free] = [f"B-{label}"] + [f"I-{label}"] * (free - own[0] - 1)
    return tags


def inline_windows(
    sentence: Sentence, length: Callable[[str], int], room: int, report: EncodingReport, use_tags: bool
) -> list[tuple[tuple[str, ...], str]]:
    """The words of every window of a sentence, and the same with their spans.

    Without ``use_tags`` the windows depend on the words alone; with them what is written fits into ``room`` tokens too,
    and no border cuts a span that is shorter.

    Args:
        length: tokens of a text.
        room: tokens of a window's words.
        report: counts what was met.
    """
    words, tags, whole = sentence.tokens, sentence.tags, spans(sentence.tags)
    lengths = [length(f" {word}") for word in words]
    written = list(lengths)
    for label, first, _ in whole if use_tags else ():
        written[first] += length(f" [ | {label} ]")
    windows = [slice(0, len(words))]
    if max(sum(lengths), sum(written)) > room:
        keep = [(first, after) for _, first, after in whole] if use_tags else []
        windows = split_windows(lengths, len(words), room, target_lengths=written, keep=keep)
    report.over_tokens += sum(lengths) > room
    report.count_parts(windows, tags, lengths, room)
    return [(words[window], write_inline(words[window], tags[window])) for window in windows]
