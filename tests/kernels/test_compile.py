"""Every Triton kernel compiles for the GPUs that it is written for, and spills no registers. No GPU is needed."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.bounds.launches import MODELS
from hyperloader.ops import _triton

pytestmark = pytest.mark.skipif(not _triton.installed(), reason=f"Triton {_triton.LEAST} or newer is not installed")

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "bench" / "results" / "kernels" / "triton.json"
# kernel → bytes of stack a thread that it may use on some NVIDIA target: ptxas keeps to a number of registers of its
# own choice and spills a register or two
MAY_SPILL = {"sums._sums_kernel": 8}
SHARED = {"sm_86": 99 << 10, "sm_90": 227 << 10}  # bytes that a program may have
# the report with the models that have bounds, on GPUs of one processor, for which the adapter's weights are summed up
AS_BOUNDS = """
from bench import kernel_report as report
from bench.bounds.launches import MODELS
report.MODELS |= {model.name: report.Model(model.hidden, 4 * model.hidden) for model in MODELS}
report.TARGETS |= {f"sm_{number}": (("cuda", number, 32), 1, shared << 10) for number, shared in ((86, 99), (90, 227))}
report.main()
"""


def compile_kernels(path, *options, program=("-m", "bench.kernel_report")):
    """Rows of the report, made in a process that does not interpret kernels."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, *program, "--output", str(path), *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())["kernels"]


def assert_no_spills(rows):
    assert rows
    spilling = [row for row in rows if row["spilled"] > MAY_SPILL.get(row["kernel"], 0)]
    assert not spilling, "\n".join(map(str, spilling))


@pytest.mark.parametrize("target", ["sm_90", pytest.param("gfx942", marks=pytest.mark.slow)])
def test_the_kernels_of_t5_base(tmp_path, target):
    options = ["--targets", target, "--models", "t5-base", "--dtypes", "bfloat16", "--only", "groups"]
    rows = compile_kernels(tmp_path / "report.json", *options)
    assert_no_spills(rows)
    names = {row["kernel"] for row in rows}
    assert {"adapter_walk.walk_kernel", "adapter_backward.tokens_kernel", "lora_linear.tokens_kernel"} <= names


@pytest.mark.parametrize("target", SHARED)
def test_the_widest_bottleneck_fits_shared_memory(tmp_path, target):
    """That of 4096 hidden units; every kernel of the adapter's backward, and those of its forward and of LoRA."""
    options = ["--targets", target, "--models", "7B decoder", "--dtypes", "bfloat16", "--only", "groups"]
    rows = compile_kernels(tmp_path / "report.json", *options, program=("-c", AS_BOUNDS))
    names = {row["kernel"] for row in rows}
    assert {"adapter_moments.parts_kernel", "adapter_moments.join_kernel", "adapter_backward.tokens_kernel",
            "sums._sums_kernel", "adapter_backward.weights_kernel"} <= names  # fmt: skip
    assert_fits(rows)


def assert_fits(rows):
    """Registers are spilled, if at all, by what runs once a tile: a few numbers a thread, not what a loop goes over."""
    for row in rows:
        assert row["shared"] <= SHARED[row["target"]], row
        assert row["spilled"] <= 1024, row


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_models_that_have_bounds_fit_shared_memory(tmp_path, model):
    assert model.hidden // 32 == model.bottleneck  # the report's bottleneck
    options = ["--targets", *SHARED, "--models", model.name]
    assert_fits(compile_kernels(tmp_path / "report.json", *options, program=("-c", AS_BOUNDS)))


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
