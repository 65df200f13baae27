"""A test that ends for want of an optional package is skipped, and no other one."""

import subprocess
import sys
from pathlib import Path

import conftest
import pytest

TESTS = Path(__file__).parent


def failed(name: str, wrapped: bool) -> Exception:
    missing = ModuleNotFoundError(f"No module named {name!r}", name=name)
    if not wrapped:
        return missing
    error = ImportError("install it")
    error.__cause__ = missing
    return error


@pytest.mark.parametrize("wrapped", [False, True])
def test_missing_package(monkeypatch, wrapped):
    monkeypatch.setattr(conftest, "find_spec", lambda name: None)
    assert conftest.missing_package(failed("matplotlib", wrapped)) == "matplotlib"
    assert conftest.missing_package(failed("hyperloader.gone", wrapped)) is None
    monkeypatch.setattr(conftest, "find_spec", lambda name: "installed")
    assert conftest.missing_package(failed("matplotlib", wrapped)) is None
    assert conftest.missing_package(AssertionError()) is None


@pytest.mark.parametrize("folder", ["cli/test_env.py", "training/test_presets.py"])
def test_a_folder_alone_is_skipped(folder):
    """Its conftest is read before any hook is asked."""
    script = (
        "import sys, pytest\n"
        "sys.modules.update(dict.fromkeys(['typer', 'yaml', 'transformers']))\n"
        f"sys.exit(pytest.main(['-q', '-rs', '-p', 'no:cacheprovider', {str(TESTS / folder)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=TESTS.parent, capture_output=True, text=True, check=False)
    assert "is not installed" in done.stdout, done.stdout + done.stderr
    assert done.returncode in (0, 5), done.stdout
