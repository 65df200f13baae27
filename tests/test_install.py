"""Every way to install the package, done for real: sdist, wheel, editable, with and without a compiler or torch.

The environments see the torch of this one through a .pth file; nothing but the requirements of the build is downloaded.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

COMPILERS = (os.environ.get("CXX", "c++"), "g++", "clang++")
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C++ compiler")
ROOT = Path(__file__).resolve().parents[1]
SITE = Path(sysconfig.get_path("purelib"))
OPERATORS = ("condition", "generate", "adapter", "lora_linears")
CHECK = f"""
import json, warnings
warnings.simplefilter("ignore")
import torch, hyperloader, hyperloader.kernels
from hyperloader.ops import native
for name in {OPERATORS}:
    getattr(torch.ops.hyperloader, name), getattr(torch.ops.hyperloader, name + "_backward")
y = hyperloader.ops.lora_linear(torch.ones(2, 3), torch.ones(4, 3), None, torch.ones(1, 3), torch.ones(4, 1))
assert torch.equal(y, torch.full((2, 4), 6.0))
print(json.dumps([native.available, hyperloader.__file__, list(hyperloader.kernels.__path__)]))
"""


def run(*command, fails=False, **environment):
    """Run a command outside the checkout and return what it printed; ``environment`` is added to this one."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HYPERLOADER", "PYTHON"))}
    inherited["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), inherited["PATH"]])
    done = subprocess.run(
        [str(part) for part in command], cwd=Path(sys.prefix), env=inherited | environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert (done.returncode != 0) == fails, done.stdout
    return done.stdout


@pytest.fixture
def source(tmp_path):
    """A copy of the checkout without anything that was built in it."""
    folder = tmp_path / "source"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "dist", "runs", "*.egg-info", "*.so", "__pycache__")
    shutil.copytree(ROOT, folder, symlinks=True, ignore=ignored)
    return folder


@pytest.fixture
def python(tmp_path):
    """The interpreter of a new environment that sees the packages of this one behind its own."""
    venv.create(tmp_path / "environment", with_pip=False)
    interpreter = tmp_path / "environment" / "bin" / "python"
    own_site = run(interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(own_site) / "outer.pth").write_text(f"{SITE}\n")
    return interpreter


def install(python, *arguments, **options):
    return run(sys.executable, "-m", "pip", "--python", python, "install", "-v", "--no-deps", *arguments, **options)


def check(python, native=True):
    """Import the package with ``python``; return where it and its kernels lie."""
    available, file, kernels = json.loads(run(python, "-c", CHECK).splitlines()[-1])
    assert available == native
    return Path(file), [Path(folder) for folder in kernels]


@needs_compiler
def test_sdist_and_the_wheel_built_from_it(source, python, tmp_path):
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", tmp_path / "dist", source)
    (sdist,) = (tmp_path / "dist").glob("hyperloader-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {"csrc/build_backend.py", "csrc/ops.h", "csrc/cpu/adapter.cpp", "csrc/cpu/loops/avx2.cpp"}
    wanted = sources | {
        "hyperloader/ops/schemas.inc",
        "hyperloader/ops/gpu_choice.json",
        "LICENSE",
        "README.md",
        "constraints.txt",
    }
    assert wanted <= names
    assert not [name for name in names if name.startswith("tests") or name.endswith(".so")]

    run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path / "dist", sdist,
        HYPERLOADER_NATIVE="cpu",
    )  # fmt: skip
    (wheel,) = (tmp_path / "dist").glob("hyperloader-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {
        "hyperloader/py.typed",
        "hyperloader/kernels/README.md",
        "hyperloader/ops/schemas.inc",
        "hyperloader/ops/gpu_choice.json",
    } <= set(names)
    assert any(name.startswith("hyperloader/_C.") for name in names)
    tops = {name.partition("/")[0].partition("-")[0] for name in names}
    assert tops == {"hyperloader"}

    install(python, wheel)
    file, kernels = check(python)
    assert kernels == [file.parent / "kernels"]


@needs_compiler
def test_isolated_build_uses_the_torch_that_is_there(source, python):
    log = install(python, source, HYPERLOADER_NATIVE="cpu")
    assert "Collecting torch" not in log
    check(python)


@needs_compiler
@pytest.mark.parametrize("mode", ["lenient", "strict", "compat"])
def test_editable(source, python, mode):
    """The folder `kernels` at the top comes onto the search path, and must not hide another package of that name."""
    other = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip(), "kernels/__init__.py"
    )
    other.parent.mkdir()
    other.touch()
    install(
        python, "--no-build-isolation", "--config-settings", f"editable_mode={mode}", "--editable", source,
        HYPERLOADER_NATIVE="cpu",
    )  # fmt: skip
    file, kernels = check(python)
    assert file.resolve() == source / "hyperloader" / "__init__.py"
    assert len(kernels) == 1
    assert (kernels[0] / "README.md").resolve() == source / "kernels" / "README.md"
    assert run(python, "-c", "import kernels; print(kernels.__file__)").strip() == str(other)


def test_without_a_compiler(source, python):
    log = install(python, "--no-build-isolation", source, CC="/no/compiler", CXX="/no/compiler")
    assert "installing WITHOUT the native extension: it could not be compiled" in log
    check(python, native=False)
    report = run(python, "-c", "import hyperloader")
    assert "hyperloader runs without its native extension: it was not built" in report
    assert str(source) in report  # the command that builds it names what was installed


def test_a_compiler_that_was_asked_for_is_missed(source, python):
    log = install(
        python, "--no-build-isolation", source, CC="/no/compiler", CXX="/no/compiler", HYPERLOADER_NATIVE="cpu",
        fails=True,
    )  # fmt: skip
    assert "HYPERLOADER_NATIVE=cpu, but it could not be compiled" in log


def test_without_the_extension_by_choice(source, python):
    install(python, "--no-build-isolation", source, HYPERLOADER_NATIVE="none")
    check(python, native=False)


def test_without_torch_the_build_asks_for_one(source, tmp_path):
    """And where it gets none, it builds a package without the extension."""
    venv.create(tmp_path / "bare", with_pip=False)
    packages = tmp_path / "packages"
    packages.mkdir()
    for folder in (*SITE.glob("setuptools*"), SITE / "_distutils_hack"):
        (packages / folder.name).symlink_to(folder)
    script = (
        f"import os, sys; sys.path.insert(0, {str(source / 'csrc')!r}); os.chdir({str(source)!r})\n"
        "import build_backend\n"
        f"print('requires', build_backend.get_requires_for_build_wheel(), build_backend.build_wheel({str(tmp_path)!r}))"
    )
    bare = tmp_path / "bare" / "bin" / "python"
    log = run(bare, "-c", script, PYTHONPATH=str(packages), VIRTUAL_ENV="")
    assert "requires ['torch'] hyperloader-" in log
    assert "installing WITHOUT the native extension: torch cannot be imported" in log
    log = run(bare, "-c", script.replace("build_backend.build_wheel", "str"), PYTHONPATH=str(packages),
              VIRTUAL_ENV=sys.prefix)  # fmt: skip
    assert "requires []" in log  # the activated environment has one
