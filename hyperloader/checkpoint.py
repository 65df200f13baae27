"""Checkpoints: what is trained as safetensors, the rest as JSON with a fingerprint of the backbone."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hyperloader.config import HyperLoaderConfig

TENSORS, DESCRIPTION = "model.safetensors", "hyperloader.json"
_FORMAT = 1
_SAMPLES = 8  # numbers of each frozen tensor in a fingerprint
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
        import transformers

        name, class_name = self.backbone["name"], self.backbone["class"]
        if not name:
            raise ValueError(f"{self.folder}: its backbone was saved without a name; give backbone=")
        kind = getattr(transformers, class_name, None)
        if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
            raise ValueError(f"{self.folder / DESCRIPTION}: backbone class {class_name!r} is none of transformers'")
        return kind.from_pretrained(name)

    def check_backbone(self, backbone: nn.Module) -> None:
        """Raise ``ValueError`` unless ``backbone`` is the one that the checkpoint was trained with."""
        if type(backbone).__name__ != self.backbone["class"]:
            raise ValueError(
                f"{self.folder}: backbone must be a {self.backbone['class']}, got {type(backbone).__name__}"
            )
        found = fingerprint(backbone, set(self.backbone["trained"]))
        stored = self.backbone["fingerprint"]
        for name in sorted(stored.keys() ^ found.keys()):
            holder = "the checkpoint's backbone" if name in stored else "this backbone"
            raise ValueError(f"{self.folder}: wrong backbone: only {holder} has the tensor {name}")
        for name, (shape, _) in stored.items():
            if shape != found[name][0]:
                raise ValueError(f"{self.folder}: wrong backbone: {name} must have shape {shape}, got {found[name][0]}")
        for name, (_, samples) in stored.items():
            expected, actual = torch.tensor(samples), torch.tensor(found[name][1])
            if not torch.allclose(actual, expected, rtol=_TOLERANCE, atol=_TOLERANCE * float(expected.abs().max())):
                raise ValueError(
                    f"{self.folder}: wrong backbone: the values of {name} are others than those it was trained with"
                    f" ({self.backbone['name'] or 'an unnamed model'})"
                )

    def check_tensors(self, wanted: dict[str, Tensor]) -> None:
        """Raise ``ValueError`` unless the stored tensors are exactly ``wanted``, by name and shape."""
        path = self.folder / TENSORS
        missing, extra = sorted(wanted.keys() - self.tensors.keys()), sorted(self.tensors.keys() - wanted.keys())
        if missing or extra:
            raise ValueError(
                f"{path}: tensors missing: {', '.join(missing) or 'none'}; extra: {', '.join(extra) or 'none'}"
            )
        for name, tensor in wanted.items():
            if tensor.shape != self.tensors[name].shape:
                raise ValueError(
                    f"{path}: {name} must have shape {tuple(tensor.shape)}, got {tuple(self.tensors[name].shape)}"
                )


def save(
    folder: str | Path,
    tensors: dict[str, Tensor],
    config: HyperLoaderConfig,
    backbone: nn.Module,
    trained_norms: Sequence[str],
) -> None:
    """Write a checkpoint; the files of an older one stay intact until the new ones are complete."""
    import safetensors.torch

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    description = {
        "format": _FORMAT,
        "sha256": hashlib.sha256(content).hexdigest(),
        "config": config.to_dict(),
        "backbone": {
            "name": getattr(backbone.config, "_name_or_path", ""),
            "class": type(backbone).__name__,
            "trained": list(trained_norms),
            "fingerprint": fingerprint(backbone, set(trained_norms)),
        },
    }
    text = json.dumps(description, ensure_ascii=False, indent=1)
    replace_files({folder / TENSORS: content, folder / DESCRIPTION: text.encode()})


def load(folder: str | Path) -> Stored:
    """Read a checkpoint's files; raises ``FileNotFoundError`` or ``ValueError`` naming the file and what is wrong."""
    import safetensors.torch

    folder = Path(folder)
    for name in (TENSORS, DESCRIPTION):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file; a checkpoint holds {TENSORS} and {DESCRIPTION}")
    description = _read_description(folder / DESCRIPTION)
    content = (folder / TENSORS).read_bytes()
    if hashlib.sha256(content).hexdigest() != description["sha256"]:
        raise ValueError(f"{folder / TENSORS}: truncated, changed, or not the file that {DESCRIPTION} describes")
    try:
        config = HyperLoaderConfig.from_dict(description["config"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / DESCRIPTION}: {error}") from error
    return Stored(folder, config, safetensors.torch.load(content), description["backbone"])


def fingerprint(backbone: nn.Module, without: set[str]) -> dict[str, list]:
    """Shape and a few numbers of every tensor of ``backbone`` but those ``without``, by its name there."""
    marks = {}
    for name, tensor in backbone.state_dict().items():
        name = name.replace(".linear.", ".") if name.endswith((".linear.weight", ".linear.bias")) else name
        if name in without:
            continue
        flat = tensor.detach().flatten()
        count = min(_SAMPLES, flat.numel())
        places = torch.linspace(0, max(flat.numel() - 1, 0), count, dtype=torch.float64).long().to(flat.device)
        marks[name] = [list(tensor.shape), flat[places].float().tolist()]
    return marks


def replace_files(contents: dict[Path, bytes]) -> None:
    """Write all files aside, down to the disk, and only then let them take their places."""
    asides = {path: path.with_name(f".{path.name}.{os.getpid()}.partial") for path in contents}
    try:
        for path, content in contents.items():
            with asides[path].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, aside in asides.items():
            aside.replace(path)
    finally:
        for aside in asides.values():
            aside.unlink(missing_ok=True)


def _read_description(path: Path) -> dict:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a checkpoint's description: {error}") from error
    if not isinstance(description, dict) or description.get("format") != _FORMAT:
        raise ValueError(f"{path}: not a checkpoint's description of format {_FORMAT}")
    for key, kind in (("sha256", str), ("config", dict), ("backbone", dict)):
        if not isinstance(description.get(key), kind):
            raise ValueError(f"{path}: {key} must be a {kind.__name__}, got {description.get(key)!r:.80}")
    for key, kind in (("name", str), ("class", str), ("trained", list), ("fingerprint", dict)):
        if not isinstance(description["backbone"].get(key), kind):
            raise ValueError(f"{path}: backbone.{key} must be a {kind.__name__}")
    return description
