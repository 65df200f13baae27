"""Check the CUDA kernels without a GPU, with a PyTorch for CUDA and nvcc: ``make cuda-check``.

Compiles the extension into build/cuda, imports it, asks the dispatcher for a kernel of every operator, and reports the
registers, the shared memory, the stack and the spills of every kernel. A kernel that needs a stack or spills is an
error, unless ``EXPECTED`` says why it may.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "bench/results/kernels/cuda.json"
VARIABLES = ("CUDA_HOME", "CPATH", "LIBRARY_PATH")
EXPECTED: dict[str, str] = {}  # the beginning of a kernel's name -> why it may have a stack or spill

_IMPORT = """
import torch
import hyperloader
from hyperloader.ops import _schema, native
assert native.available, native.reason
has = torch._C._dispatch_has_kernel_for_dispatch_key
wanted = [(f"hyperloader::{name}", key) for name in _schema.SCHEMAS for key in ("CPU", "CUDA")]
missing = [(name, key) for name, key in wanted if not (has(name, key) or has(name, "CompositeImplicitAutograd"))]
assert not missing, f"no kernel for {missing}"
print(hyperloader.build_info()["cuda"], len(_schema.SCHEMAS))
"""
_COMPILING = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


def main() -> int:
    """Run the check; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=ROOT / "build/cuda", help="folder of the build, made anew")
    parser.add_argument("--report", type=Path, default=REPORT)
    parser.add_argument("--environment", action="store_true", help="print the build's environment for a shell, no more")
    given = parser.parse_args()
    if given.environment:
        found = toolkit()
        print("\n".join(f"export {name}={shlex.quote(found[name])}" for name in VARIABLES if name in found))
        return 0

    environment = toolkit() | {"HYPERLOADER_NATIVE": "cuda", "NVCC_APPEND_FLAGS": "-Xptxas -v"}
    output = build(given.build, environment)
    kernels = sorted(resources(output), key=lambda kernel: (kernel["name"], kernel["architecture"]))
    release, operators = imported(given.build / "lib").split()
    report = {"torch": torch.__version__, "cuda": release, "architectures": architectures(kernels), "kernels": kernels}
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    wrong = [kernel for kernel in kernels if spills(kernel) and not expected(kernel)]
    for kernel in wrong:
        print(f"cuda-check: {kernel['name']} (sm_{kernel['architecture']}) needs a stack or spills: {kernel}")
    most = max((kernel["registers"] for kernel in kernels), default=0)
    print(
        f"{operators} operators have kernels for CUDA {release}; {len(kernels)} kernels, at most {most} registers, "
        f"{len(wrong)} with a stack or spills: {given.report}"
    )
    return 1 if wrong or not kernels else 0


def toolkit() -> dict[str, str]:
    """The environment in which nvcc finds itself, and the headers and libraries that came with PyTorch."""
    environment = dict(os.environ)
    if "CUDA_HOME" not in environment:
        nvcc = shutil.which("nvcc")
        if nvcc is None:
            raise SystemExit("cuda-check: nvcc must be on PATH, or CUDA_HOME be set")
        dry = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False)
        top = re.search(r"^#\$ TOP=(.+)$", dry.stderr, re.MULTILINE)
        environment["CUDA_HOME"] = os.path.realpath(top[1]) if top else str(Path(nvcc).resolve().parents[1])
    shipped = sorted((Path(torch.__file__).parents[1] / "nvidia").glob("cu[0-9]*"))
    for variable, folder in (("CPATH", "include"), ("LIBRARY_PATH", "lib")):
        found = [str(path / folder) for path in shipped if (path / folder).is_dir()]
        if found:
            environment[variable] = os.pathsep.join([*found, *filter(None, [environment.get(variable)])])
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    return environment


def build(folder: Path, environment: dict[str, str]) -> str:
    """Compile the extension into ``folder``/lib; returns what the compilers wrote."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "setup.py", "build", "--build-base", str(folder), "--build-lib", str(folder / "lib")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout}{done.stderr}cuda-check: the extension does not compile")
    return done.stdout + done.stderr


def imported(library: Path) -> str:
    """Import the extension in a process of its own; returns the release of CUDA and the number of operators."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HYPERLOADER")}
    environment["PYTHONPATH"] = str(library)
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT], cwd=library, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{done.stderr}cuda-check: the extension does not load")
    return done.stdout


def resources(output: str) -> Iterator[dict]:
    """What ptxas says of every kernel."""
    kernel: dict = {}
    for line in output.splitlines():
        if found := _COMPILING.search(line):
            kernel = {"name": readable(found[1]), "architecture": found[2]}
        elif found := _STACK.search(line):
            kernel |= {"stack": int(found[1]), "spill_stores": int(found[2]), "spill_loads": int(found[3])}
        elif (found := _USED.search(line)) and kernel:
            shared = _SHARED.search(line)
            yield kernel | {"registers": int(found[1]), "static_shared": int(shared[1]) if shared else 0}
            kernel = {}


def readable(symbol: str) -> str:
    """The kernel's name with its template arguments, without namespaces and parameters."""
    if shutil.which("c++filt") is None:
        return symbol
    name = subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=True).stdout.strip()
    name = re.sub(r"\(anonymous namespace\)::|hyperloader::cuda::|c10::|^void ", "", name)
    return name[: name.index("(")] if "(" in name and not name.startswith("(") else name


def architectures(kernels: list[dict]) -> list[str]:
    """Every architecture that there are kernels for."""
    return sorted({kernel["architecture"] for kernel in kernels})


def spills(kernel: dict) -> bool:
    """Whether the kernel keeps anything of its threads in memory."""
    return any(kernel.get(what, 0) for what in ("stack", "spill_stores", "spill_loads"))


def expected(kernel: dict) -> bool:
    """Whether ``EXPECTED`` names it."""
    return any(kernel["name"].startswith(name) for name in EXPECTED)


if __name__ == "__main__":
    sys.exit(main())
