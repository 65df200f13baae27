"""What a run was made with: versions, hardware, commit."""

import ctypes
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

import torch

PACKAGES = ("hyperloader", "torch", "triton", "transformers", "peft")
_ROOT = Path(__file__).resolve().parents[1]
_LIMITS = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
)  # to fewer instruction sets
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that matter; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    found["torch"] = torch.__version__
    return found


def hardware(device: torch.device) -> dict[str, str | int]:
    """Name of the device, the instruction sets that PyTorch uses and what limits them, and how many processors there
    are."""
    name, capability = _processor(), torch.backends.cpu.get_cpu_capability()
    limits = _limits() if device.type == "cpu" else ""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        capability = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
    return {
        "device": name,
        "capability": capability,
        "processors": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        **({"limited_by": limits} if limits else {}),
    }


def commit() -> str:
    """The commit of this checkout, with ``-dirty`` where files differ from it; empty outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def keep_freed_memory() -> bool:
    """Have glibc keep what this process frees, from now on; False where the C library is another one.

    By itself it gives large blocks back to the system now and then, and the next call pays for as many page faults.
    Whether it does depends on what else lies in memory: calls of some milliseconds then take twice as long or not.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_MMAP_MAX, 0) == 1 == mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def slug(device: torch.device) -> str:
    """Name of the results' folder: the instruction set, such as ``cpu-avx2``, with ``-limited`` where the processor may
    have more; or the GPU's name."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"cpu-{torch.backends.cpu.get_cpu_capability()}{'-limited' if _limits() else ''}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _limits() -> str:
    """What limits the instruction sets of the CPU, as ``VARIABLE=value ...``."""
    return " ".join(f"{variable}={os.environ[variable]}" for variable in _LIMITS if os.environ.get(variable))


def _processor() -> str:
    """The CPU's model as Linux names it."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()
