"""The CUDA kernels compiled for the host, in the place of the extension's kernels for the CPU. See tests/cuda_host."""

import ctypes
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

from hyperloader.ops import native, use_backend

ROOT = Path(__file__).resolve().parents[2]
HOST = ROOT / "tests/cuda_host"
BUILD = ROOT / "build/cuda-host"
FLAGS = ("-std=c++20", "-O1", "-g1", "-fPIC", "-fno-gnu-unique", "-Wno-psabi", "-Wno-attributes")
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
# variant -> flags of the kernels, of the runtime, of the linker
VARIANTS = {
    # The compiler announces every access; ThreadSanitizer itself is left out, tsan.cpp takes its place.
    "races": ("-fsanitize=thread --param tsan-instrument-func-entry-exit=0", "-O2 -DCUDA_HOST_RACES", ""),
    "sanitized": (SANITIZERS, SANITIZERS, SANITIZERS),
}
VARIANT = os.environ.get("HYPERLOADER_CUDA_HOST", "races")


def why_missing() -> str | None:
    """Why the kernels cannot be run on the host, or None where they can."""
    if DEVICE == "cuda":
        return "there is a GPU, on which the CUDA kernels themselves are run"
    if not native.available:
        return f"no native extension: {native.reason}"
    missing = [name for name in ("g++", "ninja") if shutil.which(name, path=_path()) is None]
    return f"{' and '.join(missing)} must be there to compile the CUDA kernels for the host" if missing else None


@functools.cache
def compiled(variant: str) -> Path:
    """The library of the kernels and what runs them. Compiles what has changed since the last time."""
    reason = why_missing()
    if reason is not None:
        pytest.skip(reason)
    folder = BUILD / variant
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = _ninja(variant, _sources(folder / "source"))
        (folder / "build.ninja").write_text(text, encoding="utf-8")
        ninja = [shutil.which("ninja", path=_path()), "-C", str(folder)]
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        done = subprocess.run(ninja, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"the CUDA kernels do not compile for the host:\n{done.stdout[-8000:]}{done.stderr}", pytrace=False)
    return folder / "kernels.so"


@functools.cache
def library() -> ctypes.CDLL:
    """That of this process: VARIANT."""
    found = ctypes.CDLL(str(compiled(VARIANT)))
    found.cuda_host_fault.restype = ctypes.c_char_p
    return found


def fault(name: str, sound: bool) -> str:
    """What comes of a kernel of faults.cu: the message that stopped it, else the sum of its results."""
    return library().cuda_host_fault(name.encode(), int(sound)).decode()


def sanitized() -> dict[str, str]:
    """The environment of a process that runs the kernels under AddressSanitizer and UndefinedBehaviorSanitizer."""
    names = (f"lib{name}.so" for name in ("asan", "ubsan"))
    paths = [subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip() for name in names]
    return os.environ | {
        "HYPERLOADER_CUDA_HOST": "sanitized",
        "LD_PRELOAD": " ".join(paths),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


@contextmanager
def backend() -> Iterator[None]:
    """Within the block the CUDA kernels compute every operator: on the GPU where there is one, else on the host."""
    if DEVICE == "cpu":
        library().cuda_host_compute(1)
    try:
        with use_backend("native"):
            yield
    finally:
        if DEVICE == "cpu":
            library().cuda_host_compute(0)


@contextmanager
def launches() -> Iterator[list[tuple[str, int]]]:
    """The list gets the launches within the block, at its end: the kernel's name with its template's arguments, and
    how many blocks there are."""
    found: list[tuple[str, int]] = []
    record = library().cuda_host_record
    record.restype = ctypes.c_char_p
    with backend():
        record(1)
        try:
            yield found
        finally:
            for line in record(0).decode().splitlines():
                name, _, blocks = line.rpartition("\t")
                found.append((name, int(blocks)))


def _path() -> str:
    """Where programs are looked for: in this environment, too."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _sources(folder: Path) -> list[Path]:
    """Links to what the kernels are compiled from, with the headers of HOST in the place of those of the same name."""
    shutil.rmtree(folder, ignore_errors=True)
    for path in [*(ROOT / "csrc").glob("*.h"), *(ROOT / "csrc/cuda").iterdir()]:
        link = folder / path.relative_to(ROOT)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(HOST / path.name if (HOST / path.name).exists() else path)
    return sorted(folder.glob("csrc/cuda/*.cu"))


def _ninja(variant: str, kernels: list[Path]) -> str:
    torch_library = Path(torch.__file__).parent / "lib"
    of_kernels, of_runtime, of_linker = VARIANTS[variant]
    include = [f"-I{HOST}", *(f"-isystem {path}" for path in cpp_extension.include_paths())]
    compiler = f"g++ {' '.join((*FLAGS, *include))} -MMD -MF $out.d"
    rules = {
        "precompile": f"{compiler} {of_kernels} -x c++-header $in -o $out",
        "kernels": f"{compiler} {of_kernels} -include prelude.h -x c++ -c $in -o $out",
        "runtime": f"{compiler} {of_runtime} -c $in -o $out",
        # csrc's checks are the extension's own
        "link": f"g++ -shared -Wl,--no-undefined {of_linker} $in {native.extension().__file__} -L{torch_library} "
        f"-Wl,-rpath,{torch_library} -ltorch -ltorch_cpu -lc10 -ldl -o $out",
    }
    lines = []
    for name, command in rules.items():
        lines += [f"rule {name}", f"  command = {command}"]
        lines += [] if name == "link" else ["  depfile = $out.d", "  deps = gcc"]
    lines.append(f"build prelude.h.gch: precompile {HOST / 'prelude.h'}")
    others = ("kernels",) if variant == "races" else ("kernels", "races", "tsan")
    runtime = [path for path in sorted(HOST.glob("*.cpp")) if path.stem not in others]
    kernels = [HOST / "kernels.cpp", *kernels, HOST / "faults.cu"]
    lines += [f"build {path.stem}.o: kernels {path} | prelude.h.gch" for path in kernels]
    lines += [f"build {path.stem}.o: runtime {path}" for path in runtime]
    objects = " ".join(f"{path.stem}.o" for path in (*kernels, *runtime))
    return "\n".join([*lines, f"build kernels.so: link {objects}", ""])
