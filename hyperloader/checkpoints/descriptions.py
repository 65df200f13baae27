"""The JSON file beside the tensors of a model: its form, the hashes of the other files, and a hash of its own.

Its own hash shows whether it was edited by hand. It names no file outside its folder.
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from hyperloader.config import HyperLoaderConfig
from hyperloader.json_file import read_json
from hyperloader.validation import listed, naming, shown

FORMAT = 1
TENSORS = "model.safetensors"
DESCRIPTION_HASH = "description_sha256"
_FILES_OF_MODELS = (TENSORS, "config.json", "pytorch_model.bin", "adapter_config.json")
_NOT_HASHED = ("name",)  # of the backbone, which may be moved


def own_folder(folder: str | Path, description: str) -> Path:
    """``folder``, made if need be; raises ``ValueError`` if it is a model's without the file ``description``."""
    folder = Path(folder)
    check_no_file(folder)
    found = [name for name in _FILES_OF_MODELS if (folder / name).exists()]
    if found and not (folder / description).exists():
        raise ValueError(
            f"{folder}: holds {found[0]} of another model, which would be lost or misread; choose another folder, or "
            "remove it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_no_file(folder: Path) -> None:
    """Raise ``ValueError`` if ``folder``, which is to be written to, is a file."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: must be a folder, got a file")


def read_description(path: Path, what: str, fields: Mapping[str, type]) -> dict:
    """The JSON file ``path``; raises ``ValueError`` unless it is of our format and has ``fields`` of these types.

    A field's name may have two parts, as in ``backbone.name``.
    """
    description = read_json(path, what)
    if description.get("format") != FORMAT:
        raise ValueError(f"{path}: not {what} of format {FORMAT}")
    for field, kind in fields.items():
        outer, _, inner = field.rpartition(".")
        found = (description[outer] if outer else description).get(inner)
        if not isinstance(found, kind):
            raise ValueError(f"{path}: {field} must be a {kind.__name__}, got {found!r:.80}")
    return description


def config_of(values: dict, path: object) -> HyperLoaderConfig:
    """The configuration in the file ``path``; raises ``ValueError`` naming the file for a bad one."""
    with naming(path):
        return HyperLoaderConfig.from_dict(values)


def encoded(description: Mapping) -> bytes:
    """The content of a file with this description and its hash."""
    return json.dumps(with_hash({"format": FORMAT, **description}), ensure_ascii=False, indent=1).encode()


def with_hash(description: Mapping) -> dict:
    """``description`` with a hash of all of it but the name of its backbone."""
    return {**description, DESCRIPTION_HASH: _hash(description)}


def check_own_hash(path: Path, description: Mapping) -> None:
    """Raise ``ValueError`` if the description in the file ``path`` was edited after it was saved; one without a
    hash, as earlier versions wrote it or after that line was removed, is accepted."""
    found = description.get(DESCRIPTION_HASH)
    if DESCRIPTION_HASH in description and found != _hash(description):
        raise ValueError(
            f"{path}: was changed after it was saved, so that names may no longer fit the weights: undo the change, or "
            f"remove the line {DESCRIPTION_HASH} to keep it (backbone.name may always be changed)"
        )


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


def read_hashed(path: Path, sha256: str, description: str) -> bytes:
    """The content of ``path``; raises ``ValueError`` unless it has this hash, which the file ``description`` names."""
    content = path.read_bytes()
    if hash_of(content) != sha256:
        raise ValueError(f"{path}: truncated, changed, or not the file that {description} describes")
    return content


def hash_of(content: bytes) -> str:
    """SHA-256 of a file's content, as descriptions hold it."""
    return hashlib.sha256(content).hexdigest()


def _hash(description: Mapping) -> str:
    meant = {key: value for key, value in description.items() if key != DESCRIPTION_HASH}
    if isinstance(meant.get("backbone"), Mapping):
        meant["backbone"] = {key: value for key, value in meant["backbone"].items() if key not in _NOT_HASHED}
    text = json.dumps(meant, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hash_of(text.encode())
