"""Every Triton kernel compiles for the GPUs that it is written for, and spills no registers. No GPU is needed."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import kernel_report as report
from bench.bounds.launches import MODELS
from hyperloader.ops import _triton

triton = pytest.importorskip("triton")
_launch = pytest.importorskip("hyperloader.kernels._launch")

pytestmark = pytest.mark.skipif(not _triton.installed(), reason=f"Triton {_triton.LEAST} or newer is not installed")

SM_90 = _launch.Architecture("cuda", 132, 227 << 10)
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


def test_what_weights_that_stay_take_of_shared_memory():
    """``walk_room`` decides where they do: it is no less than what the compiled kernels take."""
    rows = [row for row in json.loads(COMMITTED.read_text())["kernels"]
            if row["kernel"] == "adapter_walk.walk_kernel" and row["target"].startswith("sm")]  # fmt: skip
    assert {row["model"] for row in rows} == {"t5-small", "t5-base", "MiniLM"}
    for row in rows:
        hidden = report.MODELS[row["model"]].hidden
        blocks = _launch.walk_blocks(triton.language.bfloat16, hidden, _launch.padded(hidden // 32), SM_90)
        assert row["shared"] <= _launch.walk_room(hidden, _launch.padded(hidden // 32), blocks.columns), row


@pytest.mark.parametrize(
    ("hidden", "bottleneck", "shared", "programs"),
    [(384, 16, 99, 2), (384, 32, 99, 1), (384, 32, 227, 2), (512, 16, 99, 1), (768, 32, 163, 1), (768, 32, 99, None),
     (385, 64, 227, None), (769, 16, 227, None), (128, 128, 227, None)],
)  # fmt: skip
def test_where_weights_stay(hidden, bottleneck, shared, programs):
    architecture = SM_90._replace(shared=shared << 10)
    blocks = _launch.walk_blocks(triton.language.float16, hidden, bottleneck, architecture)
    assert (blocks and blocks.programs) == programs
    assert _launch.walk_blocks(triton.language.float32, hidden, bottleneck, architecture) is None


@pytest.mark.slow
def test_all_kernels(tmp_path):
    release = json.loads(COMMITTED.read_text())["versions"]["triton"]
    if importlib.metadata.version("triton") != release:
        pytest.skip(f"what may spill is known for Triton {release} alone")
    assert_no_spills(compile_kernels(tmp_path / "report.json"))
