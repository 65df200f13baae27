"""The words of running text: the rule for every format that gives text and no tokens."""

import re
import sys
import unicodedata
from functools import cache


def split_words(text: str) -> list[tuple[int, int]]:
    """The words of ``text`` as (first character, character after the last).

    A word is a run of letters, digits, underscores and the marks and joiners that belong to letters; every other
    character that is no white space is a word of its own: ``don't pay $1.50`` is don, ', t, pay, $, 1, ., 50.
    """
    return [match.span() for match in _word().finditer(text)]


@cache
def _word() -> re.Pattern:
    characters = map(chr, range(sys.maxunicode + 1))
    marks = "".join(character for character in characters if unicodedata.category(character) in ("Mn", "Mc"))
    return re.compile(rf"[\w{re.escape(marks)}\u200c\u200d]+|\S")
