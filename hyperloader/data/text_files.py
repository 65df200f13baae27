"""The text of a file: UTF-8, whatever its line ends, without byte-order marks."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from hyperloader.data.records import Record
from hyperloader.data.sentence import DataError, describe_character

_MARK = "\ufeff"
_JOINERS = "\u00ad\u200c\u200d"  # soft hyphen and joiners: part of the spelling in many languages and of emoji


def read_text(path: Path) -> tuple[str, list[str]]:
    """The text of a file, and notes about what was changed to get it.

    A byte-order mark at the start of any line (where files were put together) is dropped. In a file without a line
    feed, carriage returns end the lines.

    Raises:
        DataError: the file does not exist or cannot be read, or is no UTF-8.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: the file does not exist; correct the path") from None
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read ({error.strerror}); make it a readable file") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        hint = " (it looks like UTF-16)" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise DataError(f"{path}:{line}: byte 0x{byte:02x} is not UTF-8{hint}; save the file as UTF-8") from None
    notes = []
    if "\r" in text and "\n" not in text:
        text = text.replace("\r", "\n")
        notes.append(f"{path.name}: its lines end with carriage returns (CR), which were read as line ends")
    if _MARK in text:
        text, count = re.subn(rf"(?m)^{_MARK}+", "", text)
        if count:
            notes.append(f"{path.name}: {count:,} byte-order marks (U+FEFF) at the start of a line were dropped")
    return text, notes


def note_invisible(records: Iterable[Record], name: str) -> list[str]:
    """A note about words with invisible characters: they stay, and a model reads them as part of the word."""
    counts: Counter[str] = Counter()
    words, first = 0, None
    known: dict[str, str] = {}
    for record in records:
        for position, token in enumerate(record.tokens):
            if token.isascii() and token.isprintable():
                continue
            found = known.setdefault(token, "".join(filter(_is_invisible, token)))
            if found:
                counts.update(found)
                words += 1
                first = first or record.where(position)
    if not words:
        return []
    listed = ", ".join(describe_character(character) for character, _ in counts.most_common(3))
    return [f"{name}: {words:,} words hold characters that cannot be seen ({listed}), the first at {first}; they stay"]


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) in ("Cf", "Cc") and character not in _JOINERS
