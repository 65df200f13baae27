"""The file of a model card: as hyperloader wrote it, it may be replaced; one that the user wrote or edited stays."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from hyperloader.checkpoints.descriptions import hash_of

CARD = "README.md"  # which the Hub shows
_METADATA = re.compile(r"\ufeff?---\r?\n(.*?\n)---", re.DOTALL)  # YAML at the beginning
_MARK = "<!-- written by hyperloader, and written anew by the next save unless it was changed: sha256 {} -->\n"


def signed(lines: Sequence[str]) -> bytes:
    """A card of these ``lines`` and a last one that tells later whether they were changed."""
    text = ("\n".join(lines) + "\n").encode()
    return text + _MARK.format(hash_of(text)).encode()


def license_of(card: bytes) -> str | None:
    """The licence that a card names in its metadata, or several, separated by commas; None if none."""
    import yaml  # which huggingface_hub needs as well

    found = _METADATA.match(card.decode(errors="replace"))
    try:
        metadata = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return None  # of a card that the Hub could not read either
    named = metadata.get("license") if isinstance(metadata, dict) else None
    return ", ".join(map(str, named)) if isinstance(named, list) else named and str(named)


def with_license(card: bytes, license: str) -> bytes:
    """A card that hyperloader wrote, which names none, with a ``license``."""
    first, *lines, _ = card.decode().splitlines()
    return signed([first, f"license: {license}", *lines])


def is_replaceable(path: Path) -> bool:
    """Whether there is no card at ``path``, or one that hyperloader wrote and that nobody has changed since. One that
    cannot be read is the user's."""
    try:
        text, newline, mark = path.read_bytes().rstrip(b"\n").rpartition(b"\n")
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return mark + b"\n" == _MARK.format(hash_of(text + newline)).encode()


def card_file(folder: Path, card: bytes) -> dict[Path, bytes]:
    """The file to write as ``folder``'s card; none where the one that is there is the user's."""
    return {folder / CARD: card} if is_replaceable(folder / CARD) else {}


def keep_card(folder: Path, new: Path) -> None:
    """Take the user's own card over from ``folder``, which ``new`` is to replace."""
    if not is_replaceable(folder / CARD) and (folder / CARD).is_file():
        shutil.copyfile(folder / CARD, new / CARD)
