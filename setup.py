"""Build of the compiled extension; everything else about the package is declared in pyproject.toml.

HYPERLOADER_NATIVE=cpu|cuda|none chooses what csrc/ builds, and a choice that fails is an error. Unset, it is cuda where
PyTorch for CUDA, nvcc and CUDA sources are there, else cpu, and a build that fails leaves the package without the
extension. TORCH_CUDA_ARCH_LIST names the GPUs to compile for; which GPU this machine has, if any, makes no difference.
"""

import os
import sys
from pathlib import Path

from setuptools import find_packages, setup

CHOICE = os.environ.get("HYPERLOADER_NATIVE")
# Vectors of another instruction set are no arguments of ours (-Wno-psabi); at::parallel_for is serial without OpenMP.
ARCHITECTURES = "8.0;9.0+PTX"
FLAGS = ["-O3", "-g0", "-Wno-psabi", *(["-fopenmp"] if sys.platform == "linux" else [])]


def without_extension(reason):
    """Say that the package goes without its extension, or stop where the extension was asked for."""
    if CHOICE is not None:
        raise SystemExit(f"hyperloader: HYPERLOADER_NATIVE={CHOICE}, but {reason}")
    print(f"hyperloader: installing WITHOUT the native extension: {reason}", file=sys.stderr)


def extension_and_command():
    """Return the arguments of ``setup`` that build csrc/: none without torch, or with HYPERLOADER_NATIVE=none."""
    if CHOICE not in (None, "cpu", "cuda", "none"):
        raise SystemExit(f"HYPERLOADER_NATIVE must be cpu, cuda or none, got {CHOICE!r}")
    if CHOICE == "none":
        return {}
    try:
        import torch
        from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension
    except ImportError as error:
        without_extension(f"torch cannot be imported ({error})")
        return {}

    class BuildNative(BuildExtension):
        def run(self):
            try:
                super().run()
            except Exception as error:  # whatever a missing or unfit compiler raises
                without_extension(f"it could not be compiled: {type(error).__name__}: {error}")
                self.extensions = []  # so that the wheel expects no file

    cuda_sources = [str(path) for path in sorted(Path("csrc/cuda").glob("*.cu"))]
    target = CHOICE or ("cuda" if torch.version.cuda and CUDA_HOME and cuda_sources else "cpu")
    sources = [
        str(path) for folder in ("csrc", "csrc/cpu", "csrc/cpu/loops") for path in sorted(Path(folder).glob("*.cpp"))
    ]
    if target == "cuda":
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ARCHITECTURES)
    kind = CUDAExtension if target == "cuda" else CppExtension
    macros = [("HYPERLOADER_FLAGS", f'"{" ".join(FLAGS)}"')]
    macros += [("HYPERLOADER_CUDA", f'"{torch.version.cuda}"')] if target == "cuda" else []
    extension = kind(
        "hyperloader._C",
        sources + (cuda_sources if target == "cuda" else []),
        include_dirs=[str(Path("csrc").resolve())],
        define_macros=macros,
        extra_compile_args={"cxx": FLAGS, "nvcc": ["-O3"]},
        extra_link_args=[flag for flag in FLAGS if flag == "-fopenmp"],
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildNative}}


setup(
    # hyperloader/kernels is a link to kernels/, without an __init__.py (see kernels/README.md), so it is named here.
    packages=[*find_packages(include=["hyperloader", "hyperloader.*"]), "hyperloader.kernels"],
    **extension_and_command(),
)
