"""A test that ends for want of an optional package is skipped, and no other one."""

import conftest
import pytest


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
