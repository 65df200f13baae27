"""The CUDA kernels compiled for the host, loaded as operators beside those of the package. See tests/cuda_host."""

import fcntl
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import DEVICE
from torch.utils import cpp_extension

from hyperloader.ops import _fakes
from hyperloader.ops import backend as choice

ROOT = Path(__file__).resolve().parents[2]
HOST = ROOT / "tests/cuda_host"
BUILD = ROOT / "build/cuda-host"
NAMESPACE = "hyperloader_cuda_host"
FLAGS = ("-std=c++20", "-O1", "-g1", "-fPIC", "-fno-gnu-unique", "-Wno-psabi", "-Wno-attributes")


@functools.cache
def library() -> Path:
    """Compile what has changed since the last time; returns the library. Raises RuntimeError where it cannot."""
    folder = BUILD / "plain"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sources = _lay_out(folder / "source")
        (folder / "build.ninja").write_text(_ninja(sources), encoding="utf-8")
        ninja = [shutil.which("ninja", path=_path()), "-C", str(folder)]
        done = subprocess.run(ninja, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the CUDA kernels do not compile for the host:\n{done.stdout[-8000:]}{done.stderr}")
    return folder / "kernels.so"


def _lay_out(folder: Path) -> list[Path]:
    """Links to the sources of csrc, in which the files of HOST take the place of those of the same name."""
    shutil.rmtree(folder, ignore_errors=True)
    sources = []
    for path in [*(ROOT / "csrc").glob("*.*"), *(ROOT / "csrc/cuda").iterdir(), ROOT / "hyperloader/ops/schemas.inc"]:
        link = folder / path.relative_to(ROOT)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(HOST / path.name if (HOST / path.name).exists() else path)
        if path.suffix in (".cpp", ".cu") and path.name != "module.cpp":
            sources.append(link)
    return [*sorted(sources), *sorted(HOST.glob("*.cpp"))]


def _ninja(sources: list[Path]) -> str:
    include = [f"-I{HOST}", *(f"-isystem {path}" for path in cpp_extension.include_paths())]
    torch_library = Path(torch.__file__).parent / "lib"
    lines = [
        f"flags = {' '.join((*FLAGS, *include))} '-DHYPERLOADER_NAMESPACE=\"{NAMESPACE}\"'",
        f"libraries = -L{torch_library} -Wl,-rpath,{torch_library} -ltorch -ltorch_cpu -lc10 -ldl",
        "rule compile",
        "  command = g++ $flags -include prelude.h -x c++ -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule precompile",
        "  command = g++ $flags -x c++-header -MMD -MF $out.d $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule runtime",
        "  command = g++ $flags -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        "  command = g++ -shared $in $libraries -o $out",
        f"build prelude.h.gch: precompile {HOST / 'prelude.h'}",
    ]
    objects = []
    for source in sources:
        objects.append(f"{source.stem}{source.suffix.replace('.', '-')}.o")
        own = source.parent == HOST
        lines.append(
            f"build {objects[-1]}: {'runtime' if own else 'compile'} {source}{'' if own else ' | prelude.h.gch'}"
        )
    return "\n".join([*lines, f"build kernels.so: link {' '.join(objects)}", ""])


@functools.cache
def operators():
    """The operators that the CUDA kernels compute."""
    torch.ops.load_library(str(library()))
    _fakes.register(NAMESPACE)
    return getattr(torch.ops, NAMESPACE)


@contextmanager
def backend() -> Iterator[None]:
    """Within the block the CUDA kernels compute every operator of ``ops``, for tensors on the CPU."""
    reason = why_missing()
    if reason is not None:
        pytest.skip(reason)
    found, before = operators(), dict(choice._operators)
    choice._operators.update({name: getattr(found, name).default for name in choice.OPERATORS})
    try:
        yield
    finally:
        choice._operators.update(before)


def why_missing() -> str | None:
    """Why the kernels cannot be run on the host, or None where they can."""
    if DEVICE == "cuda":
        return "there is a GPU, on which the CUDA kernels themselves are run"
    missing = [name for name in ("g++", "ninja") if shutil.which(name, path=_path()) is None]
    return f"{' and '.join(missing)}, which compile the CUDA kernels for the host, are missing" if missing else None


def _path() -> str:
    """Where programs are looked for: in this environment, too."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
