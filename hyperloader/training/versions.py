"""What a result was made with."""

import importlib.metadata
import platform

import torch

PACKAGES = (
    "hyperloader",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "tokenizers",
    "safetensors",
    "seqeval",
    "numpy",
)


def versions(device: torch.device) -> dict[str, str | int | None]:
    """Versions of Python and the packages that matter, the device and the number of threads."""
    found: dict[str, str | int | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    found["threads"] = torch.get_num_threads()
    return found
