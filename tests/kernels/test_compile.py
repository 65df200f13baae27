"""Every Triton kernel compiles for the GPUs that it is written for, and spills no registers. No GPU is needed."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hyperloader.ops import _triton

pytestmark = pytest.mark.skipif(not _triton.installed(), reason=f"Triton {_triton.LEAST} or newer is not installed")

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "bench" / "results" / "kernels" / "triton.json"
# kernel → bytes of stack a thread that it may use on some NVIDIA target: ptxas keeps to a number of registers of its
# own choice and spills a register or two
MAY_SPILL = {"sums._sums_kernel": 8}


def compile_kernels(path, *options):
    """Rows of the report, made in a process that does not interpret kernels."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bench.kernel_report", "--output", str(path), *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())["kernels"]


def assert_no_spills(rows):
    assert rows
    spilling = [row for row in rows if row["spilled"] > MAY_SPILL.get(row["kernel"], 0)]
    assert not spilling, "\n".join(map(str, spilling))


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_the_kernels_of_t5_base(tmp_path, target):
    options = ["--targets", target, "--models", "t5-base", "--dtypes", "bfloat16", "--only", "groups"]
    rows = compile_kernels(tmp_path / "report.json", *options)
    assert_no_spills(rows)
    names = {row["kernel"] for row in rows}
    assert {"adapter_forward.forward_kernel", "adapter_backward.tokens_kernel", "lora_linear.tokens_kernel"} <= names


def test_the_committed_report_has_no_spills():
    rows = json.loads(COMMITTED.read_text())["kernels"]
    assert {row["target"] for row in rows} == {"sm_80", "sm_90", "gfx942"}
    assert_no_spills(rows)


@pytest.mark.slow
def test_all_kernels(tmp_path):
    release = json.loads(COMMITTED.read_text())["versions"]["triton"]
    if importlib.metadata.version("triton") != release:
        pytest.skip(f"what may spill is known for Triton {release} alone")
    assert_no_spills(compile_kernels(tmp_path / "report.json"))
