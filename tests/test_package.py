"""What holds for the package as a whole: its folders, its layers, and that importing it needs torch alone."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hyperloader"

# A part of hyperloader and those it may import, besides itself and the leaves.
MAY_IMPORT = {
    "validation": set(),
    "signals": set(),
    "json_file": {"validation"},
    "config": {"validation", "json_file"},
    "reference": set(),
    "kernels": {"reference"},
    "ops": {"reference", "kernels", "_C"},
    "nn": {"reference", "ops"},
    "backbones": {"nn", "ops"},
    "checkpoints": {"nn", "backbones"},
}
PUBLIC = "the public names"  # from hyperloader import HyperLoaderModel
WHOLE_MODEL = {"model"}
LEAVES = {"config", "validation", "json_file"}
MODEL = {"checkpoints", "reference", "ops", "nn", "backbones", *WHOLE_MODEL}
MAY_IMPORT |= dict.fromkeys(WHOLE_MODEL, MODEL)
MAY_IMPORT |= {
    "data": {*MODEL, PUBLIC},
    "training": {*MODEL, "data", "interop", PUBLIC},
    "interop": {*MODEL, PUBLIC},
}
MAY_IMPORT["cli"] = {*MAY_IMPORT, PUBLIC}

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
hyperloader.HyperLoaderConfig(tasks=["atis"])
import hyperloader.interop.published
"""


def imported_parts(path):
    """Yield the parts of hyperloader that the file at ``path`` imports anywhere, in functions too."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join((*above, *([node.module] if node.module else [])))
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("hyperloader."):
                part = name.split(".")[1]
                yield part if part in MAY_IMPORT or part == "_C" else PUBLIC


def parts():
    return {path.stem for path in PACKAGE.iterdir() if path.suffix in ("", ".py") and not path.name.startswith("__")}


def files_of(part):
    folder = PACKAGE / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def test_every_part_has_its_place_in_the_order():
    assert parts() <= set(MAY_IMPORT)


@pytest.mark.parametrize("part", sorted(set(MAY_IMPORT) & parts()))
def test_imports_point_downwards(part):
    for path in files_of(part):
        may = MAY_IMPORT[part] | {part} | (set() if part in LEAVES else LEAVES)
        illegal = set(imported_parts(path)) - may
        assert not illegal, f"{path.relative_to(ROOT)} may not import {', '.join(sorted(illegal))}"


def test_importing_needs_torch_alone():
    script = BLOCK_AND_IMPORT.format(names=BLOCKED)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_changes_no_optimizer():
    """Until a model exists: a hook that is registered for all optimizers would be there for every other library."""
    optimizers = 'import sys, torch; optimizers = sys.modules["torch.optim.optimizer"]; '
    script = optimizers + "optimizers.register_optimizer_step_post_hook = None; import hyperloader"
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
