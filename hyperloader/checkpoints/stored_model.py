"""Checkpoints: what is trained as safetensors, the rest as JSON with a fingerprint of the backbone."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hyperloader.backbones import origin
from hyperloader.checkpoints.atomic import write_files
from hyperloader.checkpoints.backbone_config import check_implementations
from hyperloader.checkpoints.descriptions import check_backbone_fields, check_seal, sealed
from hyperloader.checkpoints.tensors import check_numbers, check_tensors, read_tensors
from hyperloader.config import HyperLoaderConfig
from hyperloader.json_file import read_json

TENSORS, DESCRIPTION = "model.safetensors", "hyperloader.json"
FORMAT = 1
_FIELDS = {
    "sha256": str,
    "config": dict,
    "backbone": dict,
    "backbone.name": str,
    "backbone.class": str,
    "backbone.trained": list,
    "backbone.fingerprint": dict,
}
_FILES_OF_MODELS = (TENSORS, "config.json", "pytorch_model.bin", "adapter_config.json")
_TOLERANCE = 1e-2  # relative: a backbone cast to bfloat16 is the same backbone


@dataclass(frozen=True)
class Stored:
    """A checkpoint as read from its folder."""

    folder: Path
    config: HyperLoaderConfig
    tensors: dict[str, Tensor]
    backbone: dict

    def load_backbone(self) -> nn.Module:
        """Load the backbone that the checkpoint names, with transformers."""
        stored = self.backbone
        if not stored["name"]:
            raise ValueError(f"{self.folder}: its backbone was saved without a name; give backbone=")
        kind = backbone_class(stored["class"], str(self.folder / DESCRIPTION))
        dtype, others = stored.get("dtype"), stored.get("dtypes", {})  # which earlier versions did not write
        with_pooler = any("pooler" in name.split(".") for name in self._wanted_marks())
        try:
            config = origin.load_config(kind, stored["name"])
            check_implementations(f"backbone {stored['name']}", config)
            return origin.load(kind, stored["name"], config, dtype, others, with_pooler)
        except ValueError as error:
            raise ValueError(f"{self.folder}: {error}") from error

    def _wanted_marks(self) -> dict[str, list]:
        """The stored fingerprint, without what says nothing."""
        marks = self.backbone["fingerprint"]
        without = {name for name in marks if "pooler" in name.split(".")} if self.config.labels is not None else set()
        return {name: mark for name, mark in marks.items() if name not in without}

    def check_backbone(self, backbone: nn.Module) -> None:
        """Raise ``ValueError`` unless ``backbone`` is the one that the checkpoint was trained with."""
        if type(backbone).__name__ != self.backbone["class"]:
            raise ValueError(
                f"{self.folder}: backbone must be a {self.backbone['class']}, got {type(backbone).__name__}"
            )
        found = _fingerprint(backbone, self.backbone["trained"], self.config)
        stored = self._wanted_marks()
        for name in sorted(stored.keys() ^ found.keys()):
            holder = "the checkpoint's backbone" if name in stored else "this backbone"
            raise ValueError(f"{self.folder}: wrong backbone: only {holder} has the tensor {name}")
        for name, (shape, _) in stored.items():
            if shape != found[name][0]:
                raise ValueError(f"{self.folder}: wrong backbone: {name} must have shape {shape}, got {found[name][0]}")
        for name, (_, samples) in stored.items():
            expected, actual = (torch.tensor(one, dtype=torch.float32) for one in (samples, found[name][1]))
            tolerance = _TOLERANCE * float(expected.abs().max()) if len(samples) else 0.0
            if actual.shape != expected.shape or not torch.allclose(actual, expected, rtol=_TOLERANCE, atol=tolerance):
                raise ValueError(
                    f"{self.folder}: wrong backbone: the values of {name} are others than those it was trained with"
                    f" ({self.backbone['name'] or 'an unnamed model'})"
                )

    def check_tensors(self, wanted: dict[str, Tensor]) -> None:
        """Raise ``ValueError`` unless the stored tensors are those ``wanted``, and their numbers finite."""
        check_tensors(self.folder / TENSORS, self.tensors, wanted)


def save(
    folder: str | Path,
    tensors: dict[str, Tensor],
    config: HyperLoaderConfig,
    backbone: nn.Module,
    trained_norms: Sequence[str],
) -> None:
    """Write a checkpoint; the files of an older one stay intact until the new ones are complete.

    Raises ``ValueError`` for a folder with tensors of something else, and for weights that are NaN or infinite.
    """
    import safetensors.torch

    for name, tensor in tensors.items():
        check_numbers("this model", name, tensor)
    folder = own_folder(folder, DESCRIPTION)
    _check_generator(folder / DESCRIPTION, config.generator)
    marks = _fingerprint(backbone, trained_norms, config)
    dtype, others = origin.dtypes(backbone)
    content = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    description = {
        "format": FORMAT,
        "sha256": hashlib.sha256(content).hexdigest(),
        "config": config.to_dict(),
        "backbone": {
            "name": origin.name_of(backbone),
            "class": type(backbone).__name__,
            "dtype": dtype,
            "dtypes": others,
            "trained": list(trained_norms),
            "fingerprint": marks,
        },
    }
    text = json.dumps(sealed(description), ensure_ascii=False, indent=1)
    write_files({folder / TENSORS: content, folder / DESCRIPTION: text.encode()})


def load(folder: str | Path) -> Stored:
    """Read a checkpoint's files; raises ``FileNotFoundError`` or ``ValueError`` naming the file and what is wrong."""
    folder = Path(folder)
    for name in (TENSORS, DESCRIPTION):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file; a checkpoint holds {TENSORS} and {DESCRIPTION}")
    description = read_description(folder / DESCRIPTION, "a checkpoint's description", _FIELDS)
    content = read_hashed(folder / TENSORS, description["sha256"], DESCRIPTION)
    config = config_of(description["config"], folder / DESCRIPTION)
    check_backbone_fields(folder / DESCRIPTION, description["backbone"])
    check_seal(folder / DESCRIPTION, description)
    return Stored(folder, config, read_tensors(folder / TENSORS, content), description["backbone"])


def _fingerprint(backbone: nn.Module, trained: Sequence[str], config: HyperLoaderConfig) -> dict[str, list]:
    """Of all that is frozen and read."""
    with_heads = config.labels is not None
    return origin.fingerprint(backbone, {*trained, *origin.unread(backbone, backbone.state_dict().keys(), with_heads)})


def _check_generator(description: Path, generator: str) -> None:
    """Raise ``ValueError`` if there is a checkpoint already, whose weights are made in another way: an exported task is
    not to take the place of the model that it is of."""
    if not description.exists():
        return
    before = read_description(description, "a checkpoint's description", _FIELDS)["config"].get("generator")
    if before != generator:
        raise ValueError(
            f"{description.parent}: holds a model with generator={before!r}, which would be lost to one with "
            f"{generator!r}; choose another folder, or remove it"
        )


def own_folder(folder: str | Path, description: str) -> Path:
    """``folder``, made if need be; raises ``ValueError`` if it is a model's without the file ``description``."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: must be a folder, got a file")
    found = [name for name in _FILES_OF_MODELS if (folder / name).exists()]
    if found and not (folder / description).exists():
        raise ValueError(
            f"{folder}: holds {found[0]} of another model, which would be lost or misread; choose another folder, or "
            "remove it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def backbone_class(name: str, where: str) -> type:
    """The class ``name`` of transformers; raises ``ValueError``, beginning with ``where``, if it has none."""
    import transformers

    kind = getattr(transformers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise ValueError(f"{where}: backbone class {name!r} is none of transformers'")
    return kind


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


def read_hashed(path: Path, sha256: str, description: str) -> bytes:
    """The content of ``path``; raises ``ValueError`` unless it has this hash, which the file ``description`` names."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path}: truncated, changed, or not the file that {description} describes")
    return content


def config_of(values: dict, path: object) -> HyperLoaderConfig:
    """The configuration in the file ``path``; raises ``ValueError`` naming it for one that is none."""
    try:
        return HyperLoaderConfig.from_dict(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
