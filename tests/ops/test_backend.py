"""use_backend: an explicit choice that cannot run raises and says why, `auto` never fails."""

import os
import subprocess
import sys

import pytest

from hyperloader import ops, use_backend
from hyperloader.ops import _schema, native


def test_choice_is_brought_back():
    before = ops.backend_in_use()
    with use_backend("reference"):
        assert ops.backend_in_use() == "reference"
    assert ops.backend_in_use() == before


def test_unknown_name():
    with pytest.raises(ValueError, match="backend must be one of auto, native, triton, reference, got 'cuda'"):
        use_backend("cuda")


def test_missing_backend_says_why_and_changes_nothing(monkeypatch):
    monkeypatch.setattr(ops.backend, "why_missing", lambda name: "it is not here" if name == "triton" else None)
    before = ops.backend_in_use()
    with pytest.raises(RuntimeError, match="backend 'triton' cannot run here: it is not here"):
        use_backend("triton")
    assert ops.backend_in_use() == before


@pytest.mark.skipif(ops.why_missing("triton") is not None, reason=str(ops.why_missing("triton")))
def test_triton_from_the_environment():
    code = "from hyperloader import ops; print(ops.backend_in_use())"
    environment = os.environ | {"HYPERLOADER_BACKEND": "triton"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "triton"


@pytest.mark.parametrize(("name", "expected"), [("reference", "reference"), ("auto", None)])
def test_environment_variable(name, expected):
    code = "from hyperloader import ops; print(ops.backend_in_use())"
    environment = os.environ | {"HYPERLOADER_BACKEND": name}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == (expected or ("native" if native.available else "reference"))


def test_environment_variable_with_a_wrong_name_fails_at_import():
    environment = os.environ | {"HYPERLOADER_BACKEND": "fast"}
    result = subprocess.run(
        [sys.executable, "-c", "import hyperloader"], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "backend must be one of auto, native, triton, reference, got 'fast'" in result.stderr


@pytest.mark.skipif(not native.available, reason="the extension is not built")
@pytest.mark.parametrize("name", _schema.SCHEMAS)
def test_native_and_reference_have_one_schema(name):
    import torch

    compiled = str(getattr(torch.ops.hyperloader, name).default._schema)
    plain = str(getattr(torch.ops.hyperloader_reference, name).default._schema)
    assert compiled.removeprefix("hyperloader::") == plain.removeprefix("hyperloader_reference::")


@pytest.mark.parametrize("name", _schema.SCHEMAS)
@pytest.mark.parametrize("key", ["CPU", "CUDA", "XPU"])
def test_every_device_has_kernels(name, key):
    """With the extension too: where it has none of its own, the reference computes."""
    import torch

    assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(f"hyperloader::{name}", key)


@pytest.mark.skipif(not native.available, reason="the extension is not built")
@pytest.mark.parametrize("name", _schema.SCHEMAS)
def test_the_extension_computes_on_the_cpu(name):
    import torch

    kernel = torch._C._dispatch_dump_table(f"hyperloader::{name}").split("CPU: ")[1].split("\n")[0]
    assert (
        "csrc/lora_linear.cpp" if name == "lora_linear" else "csrc/cpu/"
    ) in kernel  # lora_linear calls lora_linears
