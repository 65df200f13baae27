"""The files of a model: what is trained as safetensors, the rest as JSON with a fingerprint of the backbone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from hyperloader.backbones import origin
from hyperloader.backbones.quantization import check_same_layers, layers_of, quantize
from hyperloader.checkpoints import fingerprints
from hyperloader.checkpoints.atomic import write_files
from hyperloader.checkpoints.backbone_config import backbone_class, check_implementations
from hyperloader.checkpoints.card import on_hub
from hyperloader.checkpoints.card_file import card_file
from hyperloader.checkpoints.descriptions import (
    TENSORS,
    check_own_hash,
    config_of,
    encoded,
    hash_of,
    own_folder,
    read_description,
    read_hashed,
)
from hyperloader.checkpoints.tensors import as_bytes, check_numbers, check_tensors, read_tensors
from hyperloader.config import HyperLoaderConfig
from hyperloader.nn.sharded import whole
from hyperloader.validation import check_names, naming, shown

DESCRIPTION = "hyperloader.json"
_WHAT = "a checkpoint's description"
_FIELDS = {
    "sha256": str,
    "config": dict,
    "backbone": dict,
    "backbone.name": str,
    "backbone.class": str,
    "backbone.trained": list,
    "backbone.fingerprint": dict,
}


@dataclass(frozen=True)
class StoredModel:
    """A checkpoint as read from its folder; ``fingerprint`` is that of the ``backbone``, as far as it is read."""

    folder: Path
    config: HyperLoaderConfig
    tensors: dict[str, Tensor]
    backbone: Mapping
    fingerprint: fingerprints.Fingerprint

    @property
    def quantized(self) -> Mapping[str, str]:
        """Path -> quantisation of the backbone's quantised layers; earlier versions wrote none."""
        return self.backbone.get("quantized", {})

    def load_backbone(self) -> nn.Module:
        """Load the backbone that the checkpoint names, with transformers."""
        stored = self.backbone
        if not stored["name"]:
            raise ValueError(f"{self.folder}: its backbone was saved without a name; give backbone=")
        kind = backbone_class(stored["class"], self.folder / DESCRIPTION)
        dtype, others = stored.get("dtype"), stored.get("dtypes", {})  # which earlier versions did not write
        try:
            config = origin.load_config(kind, stored["name"])
            check_implementations(f"backbone {stored['name']}", config)
            with_pooler = fingerprints.has_pooler(self.fingerprint)
            backbone = origin.load(kind, stored["name"], config, dtype, others, with_pooler)
        except ValueError as error:
            raise ValueError(f"{self.folder}: {error}") from error
        try:
            quantize(backbone, self.quantized)
        except ValueError as error:
            raise ValueError(f"{self.folder}: its backbone cannot be quantised ({error}); give backbone=") from error
        return backbone

    def check_backbone(self, backbone: nn.Module) -> None:
        """Raise ``ValueError`` unless ``backbone`` is the one that the checkpoint was trained with."""
        stored = self.backbone
        if type(backbone).__name__ != stored["class"]:
            raise ValueError(f"{self.folder}: backbone must be a {stored['class']}, got {type(backbone).__name__}")
        check_same_layers(self.folder, self.quantized, _layers_read(backbone, self.config))
        found = fingerprints.fingerprint_of(backbone, stored["trained"], with_heads=self.config.labels is not None)
        fingerprints.check_same(self.folder, self.fingerprint, found, stored["name"] or "an unnamed model")

    def check_tensors(self, wanted: Mapping[str, Tensor]) -> None:
        """Raise ``ValueError`` unless the stored tensors are those ``wanted``, and their numbers finite."""
        check_tensors(self.folder / TENSORS, self.tensors, wanted)


def save(
    folder: str | Path,
    tensors: Mapping[str, Tensor],
    config: HyperLoaderConfig,
    backbone: nn.Module,
    trained_norms: Sequence[str],
    card: bytes,
    is_main_process: bool = True,
) -> None:
    """Write a checkpoint with its ``card``; the files of an older one stay intact until the new ones are complete.

    Tensors that FSDP has sharded are gathered, by processes that write nothing too.

    Raises ``ValueError`` for a folder with tensors of something else, and for weights that are NaN or infinite.
    """
    tensors = {name: whole(tensor.detach()) for name, tensor in tensors.items()}
    fingerprint = fingerprints.fingerprint_of(backbone, trained_norms, with_heads=config.labels is not None)
    if not is_main_process:
        return
    for name, tensor in tensors.items():
        check_numbers("this model", name, tensor)
    folder = own_folder(folder, DESCRIPTION)
    _check_generator(folder / DESCRIPTION, config.generator)
    dtype, others = origin.dtypes(backbone)
    content = as_bytes(tensors)
    quantized = _layers_read(backbone, config)
    description = {
        "sha256": hash_of(content),
        "config": config.to_dict(),
        "backbone": {
            "name": origin.name_of(backbone),
            "class": type(backbone).__name__,
            "dtype": dtype,
            "dtypes": others,
            "trained": list(trained_norms),
            **({"quantized": quantized} if quantized else {}),
            "fingerprint": fingerprint,
        },
    }
    files = {folder / TENSORS: content, folder / DESCRIPTION: encoded(description)}
    write_files(files | card_file(folder, card))


def published(path: Path, name: str = "") -> bytes:
    """The description at ``path`` for others: of a backbone in a folder it has ``name`` in the place of the path."""
    description = read_description(path, _WHAT, _FIELDS)
    if not on_hub(description["backbone"]["name"]):
        description["backbone"]["name"] = name  # which the description's hash leaves out
    return encoded(description)


def _layers_read(backbone: nn.Module, config: HyperLoaderConfig) -> dict[str, str]:
    """The quantised layers of ``backbone`` without those of a pooler, where heads do not read it."""
    layers = layers_of(backbone)
    poolers = {path for path in layers if config.labels is not None and "pooler" in path.split(".")}
    return {path: name for path, name in layers.items() if path not in poolers}


def load(folder: str | Path) -> StoredModel:
    """Read a checkpoint's files; raises ``FileNotFoundError`` or ``ValueError`` naming the file and what is wrong."""
    folder = Path(folder)
    for name in (TENSORS, DESCRIPTION):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file; a checkpoint holds {TENSORS} and {DESCRIPTION}")
    path = folder / DESCRIPTION
    description = read_description(path, _WHAT, _FIELDS)
    content = read_hashed(folder / TENSORS, description["sha256"], DESCRIPTION)
    config, backbone = config_of(description["config"], path), description["backbone"]
    with naming(path):
        check_names("backbone.trained", backbone["trained"])
    quantized = backbone.get("quantized", {})
    if not isinstance(quantized, dict) or not all(isinstance(name, str) for name in quantized.values()):
        raise ValueError(f"{path}: backbone.quantized must map layers to quantisations, got {shown(quantized)}")
    fingerprints.check_form(path, backbone["fingerprint"])
    check_own_hash(path, description)
    fingerprint = fingerprints.read_part(backbone["fingerprint"], with_heads=config.labels is not None)
    return StoredModel(folder, config, read_tensors(folder / TENSORS, content), backbone, fingerprint)


def _check_generator(description: Path, generator: str) -> None:
    """Raise ``ValueError`` if there is a checkpoint already, whose weights are made in another way: an exported task is
    not to take the place of the model that it is of."""
    if not description.exists():
        return
    before = read_description(description, _WHAT, _FIELDS)["config"].get("generator")
    if before != generator:
        raise ValueError(
            f"{description.parent}: holds a model with generator={before!r}, which would be lost to one with "
            f"{generator!r}; choose another folder, or remove it"
        )
