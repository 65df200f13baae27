"""Fixtures shared by every test."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is decorated, so before any is imported
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it in deterministic mode
if torch.backends.cpu.get_cpu_capability() == "DEFAULT":  # without AVX2, MKL's last bits go by where a tensor lies
    os.environ.setdefault("MKL_CBWR", "COMPATIBLE")  # read at the first product
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that would download is a mistake


OPTIONAL = (  # of the extras, some machine may lack them
    "accelerate", "datasets", "hypothesis", "matplotlib", "numpy", "peft", "safetensors", "seqeval", "tokenizers",
    "transformers", "triton", "typer", "yaml",
)  # fmt: skip


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Skip a file and say why where a package is missing that not every machine has; a conftest says so itself."""
    report = yield
    missing = missing_package(report.call.excinfo.value) if report.failed else None
    if missing is not None:
        report.outcome, report.result = "skipped", []
        report.longrepr = (str(collector.path), 0, f"Skipped: {missing} is not installed")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Skip a test and say why where it ends for want of such a package, in its fixtures or in itself."""
    report = yield
    missing = missing_package(call.excinfo.value) if report.failed else None
    if missing is not None:
        report.outcome, report.longrepr = "skipped", (str(item.path), 0, f"Skipped: {missing} is not installed")
    return report


def missing_package(error: BaseException | None) -> str | None:
    """The package of `OPTIONAL` for want of which `error` was raised, itself or in what it was raised from."""
    while error is not None:
        name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if name in OPTIONAL and find_spec(name) is None:
            return name
        error = error.__cause__
    return None


def pytest_collection_modifyitems(items):
    if DEVICE == "cuda":
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.fixture(autouse=True)
def reproducible():
    """Fix the seed, and have PyTorch fill fresh memory with NaN so that a kernel that forgets an element is seen."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Return the folder of the real data sets and the T5 tokenizer, named by HYPERLOADER_DATA."""
    folder = os.environ.get("HYPERLOADER_DATA")
    if not folder:
        pytest.skip("HYPERLOADER_DATA does not name the folder of the real data sets")
    if not Path(folder).is_dir():
        pytest.fail(f"HYPERLOADER_DATA must name a folder, got {folder!r}")
    return Path(folder)


@pytest.fixture(scope="session")
def published_folder() -> Path:
    """Return the folder of the published checkpoints: that in HYPERLOADER_PUBLISHED, or that beside the data sets."""
    folder, data = os.environ.get("HYPERLOADER_PUBLISHED"), os.environ.get("HYPERLOADER_DATA")
    if folder and not Path(folder).is_dir():
        pytest.fail(f"HYPERLOADER_PUBLISHED must name a folder, got {folder!r}")
    if not folder and data and (Path(data).resolve().parent / "published").is_dir():
        folder = Path(data).resolve().parent / "published"
    if not folder:
        pytest.skip("HYPERLOADER_PUBLISHED does not name the folder of the published checkpoints")
    return Path(folder)
