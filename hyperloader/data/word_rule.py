"""Words of running text, parted from punctuation as a task's training data part them.

The rule, learnt from the words of the training data (``split_words`` says what is a letter and what is punctuation):

* A piece of text between white space that is a word of the training data, with its punctuation (``U.S.``), stays whole.
* A punctuation mark at the start or end is a word of its own, unless the data leave it attached there more often than
  they part it. Marks that the data write as one word (``...``), and endings (``'s``, ``n't``), stay together.
* A mark inside a word stays there, unless the data have it as a word of its own and never inside one; between two
  digits likewise.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from hyperloader.data.words import split_words

_CHUNK = re.compile(r"[^\s\ufeff]+")  # a byte-order mark that stands inside a text is no part of a word
_MOST = 2000  # words with punctuation that are kept
_LONGEST_ENDING = 4
_EDGES, _INNER = ("start", "end"), ("inside", "digits")


def split_at_spaces(text: str) -> list[tuple[int, int]]:
    """What stands between white space, as (first character, character after the last)."""
    return [match.span() for match in _CHUNK.finditer(text)]


@dataclass(frozen=True)
class WordRule:
    """How a task's data part words from punctuation.

    whole: words with punctuation at an edge, as they occur. start, end: marks that stay at the start or end of a word.
    inside, digits: marks that part a word inside, or between two digits.
    """

    whole: frozenset[str] = frozenset()
    start: str = ""
    end: str = ""
    inside: str = ""
    digits: str = ""

    @classmethod
    def learn(cls, sentences: Iterable[Sequence[str]]) -> "WordRule":
        """The rule of the words of some sentences."""
        counts = Counter(token for tokens in sentences for token in tokens)
        alone: Counter[str] = Counter()
        attached: dict[str, Counter[str]] = {name: Counter() for name in _EDGES + _INNER}
        whole: Counter[str] = Counter()
        for token, count in counts.items():
            pieces = _pieces(token)
            marks = [_is_mark(piece) for piece in pieces]
            if all(marks):
                alone.update(dict.fromkeys(token, count))
                if len(pieces) > 1:
                    whole[token] += count
                continue
            if marks[0] or marks[-1] or _is_ending(token):
                whole[token] += count
            first, last = marks.index(False), len(marks) - 1 - marks[::-1].index(False)
            for place, piece in enumerate(pieces):
                if marks[place]:
                    attached[_position(pieces, place, first, last)][piece] += count
        edges = {
            name: _text(mark for mark, n in attached[name].items() if n > alone[mark]) for name in ("start", "end")
        }
        inner = {name: _text(mark for mark in alone if not attached[name][mark]) for name in _INNER}
        return cls(frozenset(token for token, _ in whole.most_common(_MOST)), **edges, **inner)

    def split(self, text: str) -> list[tuple[int, int]]:
        """The words of ``text`` as (first character, character after the last)."""
        words: list[tuple[int, int]] = []
        for start, end in split_at_spaces(text):
            words += ((start + first, start + after) for first, after in self._split(text[start:end]))
        return words

    def to_dict(self) -> dict:
        """Plain types, for JSON."""
        return {**asdict(self), "whole": sorted(self.whole)}

    @classmethod
    def from_dict(cls, values: dict) -> "WordRule":
        """What ``to_dict`` gave. Raises TypeError or ValueError for anything else."""
        rule = cls(**{**values, "whole": frozenset(values["whole"])})
        if not all(isinstance(one, str) for one in (*rule.whole, rule.start, rule.end, rule.inside, rule.digits)):
            raise ValueError("a rule must hold text")
        return rule

    @cached_property
    def _longest(self) -> int:
        """Characters of the longest word that stays whole."""
        return max(map(len, self.whole), default=0)

    @cached_property
    def _of_marks(self) -> list[int]:
        """Characters, two and more, that words of marks alone have which stay whole; the most first."""
        return sorted({len(word) for word in self.whole if len(word) > 1 and all(map(_is_mark, word))}, reverse=True)

    @cached_property
    def _of_ends(self) -> list[int]:
        """The same, and those of endings."""
        return sorted({*self._of_marks, *range(2, _LONGEST_ENDING + 1)}, reverse=True)

    def _split(self, chunk: str) -> list[tuple[int, int]]:
        """The words of a piece without white space."""
        left, right = 0, len(chunk)
        before, behind = [], []
        ahead, back = _runs_of_marks(chunk), _runs_of_marks(chunk[::-1])  # from each place on, in both directions
        while left < right and not self._is_whole(chunk, left, right):
            if length := self._leading(chunk, left, min(ahead[left], right - left)):
                before.append((left, left + length))
                left += length
            elif length := self._trailing(chunk, left, right, min(back[len(chunk) - right], right - left)):
                behind.append((right - length, right))
                right -= length
            else:
                break
        middle = [(left, right)] if self._is_whole(chunk, left, right) else self._inside(chunk, left, right)
        return before + middle + behind[::-1]

    def _is_whole(self, chunk: str, left: int, right: int) -> bool:
        return right - left <= self._longest and chunk[left:right] in self.whole

    def _leading(self, chunk: str, left: int, marks: int) -> int:
        for length in self._of_marks:
            if length <= marks and chunk[left : left + length] in self.whole:
                return length
        return int(marks > 0 and chunk[left] not in self.start)

    def _trailing(self, chunk: str, left: int, right: int, marks: int) -> int:
        for length in self._of_ends:
            if length < right - left and (length <= marks or length <= _LONGEST_ENDING):
                ending = chunk[right - length : right]
                if ending in self.whole and (length <= marks or _is_ending(ending)):
                    return length
        return int(marks > 0 and chunk[right - 1] not in self.end)

    def _inside(self, chunk: str, left: int, right: int) -> list[tuple[int, int]]:
        words, start = [], left
        pieces = _pieces(chunk[left:right])
        place = left
        for number, piece in enumerate(pieces):
            if 0 < number < len(pieces) - 1 and _is_mark(piece):
                between_digits = pieces[number - 1][-1].isdigit() and pieces[number + 1][0].isdigit()
                if piece in (self.digits if between_digits else self.inside):
                    words += [(start, place)] if start < place else []
                    words.append((place, place + 1))
                    start = place + 1
            place += len(piece)
        return words + ([(start, right)] if start < right else [])


def _pieces(token: str) -> list[str]:
    return [token[start:end] for start, end in split_words(token)]


def _runs_of_marks(chunk: str) -> list[int]:
    """From each place on, how many marks follow one another."""
    runs = [0] * (len(chunk) + 1)
    for place in range(len(chunk) - 1, -1, -1):
        runs[place] = runs[place + 1] + 1 if _is_mark(chunk[place]) else 0
    return runs


def _is_mark(piece: str) -> bool:
    return len(piece) == 1 and not (piece.isalnum() or piece == "_")


def _is_ending(token: str) -> bool:
    """Whether a word is one that is written at the end of another: 's, 'll, n't."""
    token = token.replace("\u2019", "'").lower()
    return token == "n't" or (token[0] == "'" and token[1:].isalpha())


def _position(pieces: list[str], place: int, first: int, last: int) -> str:
    if place < first:
        return "start"
    if place > last:
        return "end"
    return "digits" if pieces[place - 1][-1].isdigit() and pieces[place + 1][0].isdigit() else "inside"


def _text(marks: Iterable[str]) -> str:
    return "".join(sorted(marks))
