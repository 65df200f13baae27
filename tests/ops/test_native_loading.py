"""hyperloader.ops.native where there is no extension that loads: it says why, once, and everything works."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hyperloader.ops import native

ROOT = Path(__file__).resolve().parents[2]
REPORT = """
import warnings
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import torch, hyperloader
    from hyperloader.ops import native
assert not native.available and native.build_info() is None
assert hyperloader.ops.generate(torch.ones(2, 3), [torch.ones(4, 3)], [None])[0].shape == (2, 4)
print(native.reason)
for each in seen:
    if "native extension" in str(each.message):
        print(each.message)
"""
RELEASE = torch.__version__.partition("+")[0].encode()


def report(package, **environment):
    """Import the copy of hyperloader in ``package`` in a new process; return the reason and the warnings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HYPERLOADER")}
    done = subprocess.run(
        [sys.executable, "-c", REPORT], cwd=package, env=clean | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    reason, *warnings = done.stdout.splitlines()
    return reason, warnings


@pytest.fixture
def package(tmp_path):
    """A copy of the package without the extension, in a folder that is no checkout."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
    shutil.copytree(ROOT / "hyperloader", tmp_path / "hyperloader", ignore=ignored)
    return tmp_path


def put_extension(package, content):
    suffix = ".so" if os.name == "posix" else ".pyd"
    (package / "hyperloader" / f"_C{suffix}").write_bytes(content)


def test_not_built(package):
    reason, warnings = report(package)
    assert reason == "it was not built"
    assert len(warnings) == 1
    assert "HYPERLOADER_NATIVE=cpu" in warnings[0]
    assert "pip install" in warnings[0]


def test_built_against_another_torch(package):
    put_extension(package, b"\x7fELF hyperloader compiled against torch 1.0.9\0")
    reason, warnings = report(package)
    assert reason.startswith("it was built against torch 1.0.9, and this is torch 2")
    assert len(warnings) == 1


def test_not_loadable(package):
    put_extension(package, b"\x7fELF hyperloader compiled against torch " + RELEASE + b"\0")
    reason, warnings = report(package)
    assert reason.startswith("it cannot be loaded (")
    assert len(warnings) == 1


@pytest.mark.parametrize("content", [b"", b"no extension at all"])
def test_damaged(package, content):
    put_extension(package, content)
    reason, _ = report(package)
    assert reason.startswith("it was built against torch None")


def test_not_wanted():
    assert report(ROOT, HYPERLOADER_NATIVE="none") == ("HYPERLOADER_NATIVE=none is set", [])


def test_command_that_rebuilds():
    command = native.rebuild_command()
    assert command.startswith("HYPERLOADER_NATIVE=cpu ")
    assert command.endswith(f"--editable {ROOT}")


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("file:///tmp/hyperloader-0.1.0-py3-none-any.whl", "FOLDER_OF_THE_SOURCE"),
        ("file:///home/me/hyperloader", "file:///home/me/hyperloader"),
    ],
)
def test_command_that_builds_from_source(monkeypatch, tmp_path, source, named):
    """A wheel without the extension would be installed again without it."""
    monkeypatch.setattr(native, "_PACKAGE", tmp_path / "hyperloader")
    monkeypatch.setattr(native, "_source", lambda: source)
    assert native.rebuild_command().endswith(f" --no-cache-dir {named}")
