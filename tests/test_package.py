"""What holds for the package as a whole: its folders, its layers, and that importing it needs torch alone."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hyperloader"

# Every file of the package, one a line; a file may import those above it, also in functions and under TYPE_CHECKING.
ORDER = (Path(__file__).parent / "helpers" / "package_order.txt").read_text().split()

BLOCKED = (
    "accelerate", "datasets", "matplotlib", "peft", "rich", "safetensors", "seqeval", "tokenizers", "transformers",
    "triton", "typer", "yaml",
)  # fmt: skip

BLOCK_AND_IMPORT = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Block())
import hyperloader
missing = [name for name in getattr(hyperloader, "__all__", []) if not hasattr(hyperloader, name)]
assert not missing, missing
assert "hyperloader.serving" not in sys.modules
hyperloader.HyperLoaderConfig(tasks=["atis"])
import hyperloader.interop.published
"""


CHANGES_OF_AN_IMPORT = """
import logging, os, random, signal, sys, warnings
import torch
for name in {others}:
    __import__(name)

def state():
    names = [name for name in sys.modules if name.partition(".")[0] in ("torch", "transformers")]
    seen = {{}}
    for name in names:
        for key, value in list(vars(sys.modules[name]).items()):
            seen[name, key] = id(value)
            if isinstance(value, type) and value.__module__.partition(".")[0] in ("torch", "transformers"):
                seen |= {{(name, key, inner): id(one) for inner, one in list(vars(value).items())}}
    modules, optimizers = torch.nn.modules.module, sys.modules["torch.optim.optimizer"]
    hooks = {{(holder.__name__, key): len(hooks) for holder in (modules, optimizers)
             for key, hooks in vars(holder).items() if key.startswith("_global") and key.endswith("hooks")}}
    process = {{"signals": [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)],
               "filters": warnings.filters[:], "threads": torch.get_num_threads(),
               "dtype": torch.get_default_dtype(), "grad": torch.is_grad_enabled(),
               "environment": dict(os.environ), "random": random.getstate(), "seed": torch.get_rng_state().tolist(),
               "handlers": logging.root.handlers[:], "level": logging.root.level, "path": sys.path[:]}}
    return seen, hooks | process

before, process = state()
{change}
after, process_after = state()
changed = [key for key, value in before.items() if after.get(key) != value]
changed += [key for key, value in process.items() if process_after[key] != value]
for key in changed:
    print(*([key] if isinstance(key, str) else key))
"""


def imported_files(path, known):
    """Yield the files of the package, of those ``known`` by module, that the one at ``path`` imports anywhere."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        names = [(alias.name,) for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join((*above, *([node.module] if node.module else [])))
            names = [(f"{module}.{alias.name}", module) for alias in node.names]
        for choices in names:
            found = next((known[name] for name in choices if name in known), None)
            if found is not None:
                yield found


def files():
    """Every file by the module that it is."""
    found = {}
    for path in {*PACKAGE.rglob("*.py"), *(PACKAGE / "kernels").glob("*.py")}:
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = str(path.relative_to(PACKAGE))
    return found


def test_every_file_has_its_place_in_the_order():
    assert sorted(ORDER) == sorted(files().values())


def test_folders_stand_in_the_order_of_the_parts():
    parts = [name.partition("/")[0] for name in ORDER]
    assert parts == sorted(parts, key=parts.index)


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_upwards_in_the_order(name):
    place = {name: number for number, name in enumerate(ORDER)}
    later = {one for one in imported_files(PACKAGE / name, files()) if place[one] > place[name]}
    assert not later, f"{name} may not import {', '.join(sorted(later))}, which stand below it in package_order.txt"


def changes(change, others=()):
    """What of torch, transformers and the process ``change`` changes in a new process."""
    script = CHANGES_OF_AN_IMPORT.format(others=others, change=change)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_importing_has_no_effect():
    """On torch, on transformers' Trainer and what it trains with, on the process."""
    pytest.importorskip("transformers")
    trainer = ("transformers.trainer_pt_utils", "transformers.modeling_outputs", "transformers.modeling_utils")
    assert changes("import hyperloader", trainer) == []


def test_a_change_by_an_import_is_seen():
    hook = 'sys.modules["torch.optim.optimizer"].register_optimizer_step_post_hook(print)'
    found = "\n".join(changes(f"{hook}; torch.nn.Linear.forward = print"))
    assert "_global_optimizer_post_hooks" in found
    assert "Linear forward" in found


def test_importing_needs_torch_alone():
    script = BLOCK_AND_IMPORT.format(names=BLOCKED)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_kernels_folder_is_no_package_of_its_own():
    """With an __init__.py it would hide Hugging Face's package `kernels` from transformers, run from this folder."""
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_kernels_are_reached_through_the_link():
    link = PACKAGE / "kernels"
    assert link.is_symlink()
    assert os.readlink(link) == os.path.join("..", "kernels")


def test_kernels_folder_is_never_empty():
    """Its README.md is installed with it: a folder without files would be missing from a wheel."""
    assert (ROOT / "kernels" / "README.md").exists()


def test_kernels_can_be_imported():
    done = subprocess.run(
        [sys.executable, "-c", "import hyperloader.kernels as kernels; print(list(kernels.__path__))"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
