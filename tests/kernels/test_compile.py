"""Every Triton kernel compiles for the GPUs that it is written for, and spills no registers. No GPU is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[2]
# float32 is multiplied as such, by no tensor core, in products that are unrolled into all 255 registers of an NVIDIA
# thread: two of these may not fit at some sizes. Halves, in which models are trained there, spill nothing.
MAY_SPILL = {"sums._sums_kernel", "adapter_backward.tokens_kernel", "generate.condition_kernel"}
MOST_SPILLED = 8  # bytes of a thread, in float32


def compile_kernels(path, *options):
    """Rows of the report, made in a process that does not interpret kernels."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bench.kernel_report", "--output", str(path), *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())["kernels"]


def may_spill(row):
    listed = row["kernel"] in MAY_SPILL and row["target"].startswith("sm_") and row["dtype"] == "float32"
    return listed and row["spilled"] <= MOST_SPILLED


def assert_no_spills(rows):
    assert rows
    spilling = [row for row in rows if row["spilled"] and not may_spill(row)]
    assert not spilling, "\n".join(map(str, spilling))


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_the_kernels_of_t5_base(tmp_path, target):
    options = ["--targets", target, "--models", "t5-base", "--dtypes", "bfloat16", "--only", "groups"]
    rows = compile_kernels(tmp_path / "report.json", *options)
    assert_no_spills(rows)
    names = {row["kernel"] for row in rows}
    assert {"adapter_forward.forward_kernel", "adapter_backward.tokens_kernel", "lora.tokens_kernel"} <= names


@pytest.mark.slow
def test_all_kernels(tmp_path):
    assert_no_spills(compile_kernels(tmp_path / "report.json"))
