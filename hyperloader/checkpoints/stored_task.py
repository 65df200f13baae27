"""The files of one task's model: the whole backbone as safetensors, how it is built again as JSON."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hyperloader.checkpoints.atomic import write_files
from hyperloader.checkpoints.backbone_config import backbone_class, read_backbone_config, read_generation_config
from hyperloader.checkpoints.card_file import card_file
from hyperloader.checkpoints.descriptions import (
    TENSORS,
    check_hashes,
    check_own_hash,
    encoded,
    hash_of,
    own_folder,
    read_description,
    read_hashed,
)
from hyperloader.checkpoints.tensors import as_bytes, check_numbers, check_tensors, read_tensors

DESCRIPTION, BACKBONE, GENERATION = "task.json", "config.json", "generation_config.json"
_FIELDS = {"sha256": dict, "class": str, "without_pooler": bool, "config": dict, "adapted": dict}


@dataclass(frozen=True)
class StoredTask:
    """A task's model as read from its folder.

    ``structure`` says how it is built again (the fields of ``save``); ``kind`` and ``backbone_config`` are class and
    config of its backbone, ``generation_config`` its own, or None.
    """

    folder: Path
    structure: Mapping[str, Any]
    tensors: dict[str, Tensor]
    kind: type
    backbone_config: Any
    generation_config: Any | None

    @property
    def description(self) -> Path:
        """The file that ``structure`` is from."""
        return self.folder / DESCRIPTION

    def check(self, wanted: Mapping[str, Tensor]) -> None:
        """Raise ``ValueError`` unless the stored tensors are those ``wanted``, their numbers finite, and the structure
        is what was saved."""
        check_tensors(self.folder / TENSORS, self.tensors, wanted)
        check_own_hash(self.description, self.structure)


def save(
    folder: str | Path,
    structure: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    backbone_config: str,
    generation_config: str | None,
    card: bytes,
) -> None:
    """Write a task's model; the files of an older one stay intact until the new ones are complete.

    Args:
        structure: ``class``, ``without_pooler``, ``config``, ``adapted``, ``norms`` and ``untied``, as JSON has them.
        backbone_config, generation_config: as JSON.
        card: README.md, unless there is one of the user's.

    Raises:
        ValueError: a folder with tensors of something else, and weights that are NaN or infinite.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            check_numbers("this model", name, tensor)
    files = {TENSORS: as_bytes(tensors), BACKBONE: backbone_config.encode()}
    if generation_config is not None:
        files[GENERATION] = generation_config.encode()
    folder = own_folder(folder, DESCRIPTION)
    hashes = {name: hash_of(content) for name, content in files.items()}
    files[DESCRIPTION] = encoded({"sha256": hashes, **structure})
    write_files({folder / name: content for name, content in files.items()} | card_file(folder, card))
    if generation_config is None:
        (folder / GENERATION).unlink(missing_ok=True)  # of the model that was there before


def load(folder: str | Path) -> StoredTask:
    """Read the files of a task's model; raises ``FileNotFoundError`` or ``ValueError`` naming the file and what is
    wrong."""
    folder = Path(folder)
    _check_files(folder, (TENSORS, DESCRIPTION, BACKBONE))
    structure = read_description(folder / DESCRIPTION, "the description of a task's model", _FIELDS)
    hashes = structure["sha256"]
    check_hashes(folder / DESCRIPTION, hashes, (TENSORS, BACKBONE), (TENSORS, BACKBONE, GENERATION))
    _check_files(folder, hashes)
    contents = {name: read_hashed(folder / name, sha256, DESCRIPTION) for name, sha256 in hashes.items()}
    tensors = read_tensors(folder / TENSORS, contents[TENSORS])
    kind = backbone_class(structure["class"], folder / DESCRIPTION)
    config = read_backbone_config(kind, folder / BACKBONE, layers=len(tensors))
    generation = read_generation_config(folder / GENERATION) if GENERATION in hashes else None
    return StoredTask(folder, structure, tensors, kind, config, generation)


def _check_files(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file; a task's model has it")
