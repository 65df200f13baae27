"""Descriptions that notice when somebody changes what they mean, and that name no file outside their folder."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from hyperloader.validation import check_names, listed, shown

SEAL = "description_sha256"
_FREE = ("name",)  # of the backbone: where it lies may change


def sealed(description: Mapping) -> dict:
    """``description`` with a hash of all that it means: everything but where its backbone lies."""
    return {**description, SEAL: _hash(description)}


def check_seal(path: Path, description: Mapping) -> None:
    """Raise ``ValueError`` if the description in the file ``path`` is another than the one that was sealed; without a
    hash, as earlier versions wrote it or after somebody has removed that line, it is taken as it is."""
    seal = description.get(SEAL)
    if SEAL in description and seal != _hash(description):
        raise ValueError(
            f"{path}: was changed after it was saved, so that names may no longer fit the weights: undo the change, or "
            f"remove the line {SEAL} to keep it (backbone.name may always be changed)"
        )


def check_backbone_fields(path: Path, backbone: Mapping) -> None:
    """Raise ``ValueError`` unless what the file ``path`` tells of a ``backbone`` has the right form: ``trained`` a list
    of names, ``fingerprint`` a shape and some numbers of every tensor."""
    try:
        check_names("backbone.trained", backbone["trained"])
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error
    for name, mark in backbone["fingerprint"].items():
        form = (
            isinstance(mark, list)
            and len(mark) == 2
            and all(isinstance(part, list) for part in mark)
            and all(type(size) is int and 0 <= size < 2**63 for size in mark[0])
            and all(type(number) is float or (type(number) is int and abs(number) < 2**63) for number in mark[1])
        )
        if not form:
            raise ValueError(f"{path}: fingerprint of {name} must be a shape and some numbers, got {shown(mark)}")


def check_hashes(path: Path, hashes: Mapping, needed: Collection[str], known: Collection[str]) -> None:
    """Raise ``ValueError`` unless ``hashes`` in the file ``path`` map the ``needed`` and any of the ``known`` files to
    a SHA-256 each: names of other files could lead anywhere."""
    for name, value in hashes.items():
        if name not in known:
            raise ValueError(f"{path}: sha256 must name files of {listed(known)} alone, got {shown(name)}")
        if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
            raise ValueError(f"{path}: sha256 of {name} must be 64 hexadecimal digits, got {shown(value)}")
    if not set(needed) <= hashes.keys():
        raise ValueError(f"{path}: sha256 must name {' and '.join(needed)}, got {listed(hashes) or 'none'}")


def _hash(description: Mapping) -> str:
    meant = {key: value for key, value in description.items() if key != SEAL}
    if isinstance(meant.get("backbone"), Mapping):
        meant["backbone"] = {key: value for key, value in meant["backbone"].items() if key not in _FREE}
    text = json.dumps(meant, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
