"""The CPU kernels' instruction sets: the one that is chosen, and the results of every one that this processor has."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hyperloader.ops import native

pytestmark = pytest.mark.skipif(not native.available, reason=f"no native extension: {native.reason}")

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "csrc" / "cpu" / "loops"
NAMES = ("default", "avx2", "avx512")  # each has what those before it have
DTYPES = ("torch.float32", "torch.float64", "torch.bfloat16", "torch.float16")
# Every inner loop in every dtype: a norm row by row and by its moments, columns beyond one pass and off every vector.
TESTS = (
    *(
        f"test_adapter[{norm}-{dtype}-{shape}]"
        for shape in ("single-(2, 3, 40, 24)", "mixed-(3, 50, 70, 25)")
        for dtype in DTYPES
        for norm in ("post", "pre")
    ),
    *(f"test_adapter[post-{dtype}-single-(2, 40, 1100, 6)]" for dtype in DTYPES),
    *(f"test_lora_linear[{dtype}-mixed-(3, 50, 1100, 33, 5)]" for dtype in DTYPES),
    "test_activations_from_one_end_to_the_other",
    "test_adapter_whose_columns_cancel",
    *(f"test_generate[{dtype}]" for dtype in DTYPES),
)

each_name = pytest.mark.parametrize("name", NAMES)


def limited_to(name: str | None) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if key != "ATEN_CPU_CAPABILITY"}
    return clean if name is None else clean | {"ATEN_CPU_CAPABILITY": name}


def chosen(limit: str | None) -> str:
    """The instruction set of a new process."""
    show = "import hyperloader; print(hyperloader.build_info()['instruction_set'])"
    done = subprocess.run([sys.executable, "-c", show], env=limited_to(limit), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def best() -> str:
    return chosen(None)


def skip_without(name: str, best: str) -> None:
    if name not in native.build_info()["instruction_sets"]:
        pytest.skip(f"the extension is not compiled for {name}")
    if NAMES.index(name) > NAMES.index(best):
        pytest.skip(f"this processor has no {name}, {best} is its best")


@each_name
def test_the_limit_takes_nothing_that_the_processor_lacks(name, best):
    assert chosen(name) == min(name, best, key=NAMES.index)


@each_name
def test_every_instruction_set(name, best):
    skip_without(name, best)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    modules = {test: "test_native" if test.startswith("test_generate") else "test_cpu_loops" for test in TESTS}
    command += [f"{HERE / module}.py::{test}" for test, module in modules.items()]
    done = subprocess.run(command, env=limited_to(name), capture_output=True, text=True)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"


def targets_of(name: str) -> set[str]:
    """What a file is compiled for."""
    if not SOURCES.is_dir():
        pytest.skip("the sources are not here")
    compiled = (SOURCES / f"{name}.cpp").read_text(encoding="utf-8")
    targets = re.findall(r'target\("([^"]*)"\)', compiled)
    assert len(targets) == 2, "of Clang and of GCC"
    assert targets[0] == targets[1]
    return set(targets[0].split(","))


@pytest.mark.parametrize("name", NAMES[1:])
def test_the_processor_is_asked_for_all_that_is_compiled_in(name):
    wanted = targets_of(name)
    choice = (SOURCES / "choose.cpp").read_text(encoding="utf-8")
    asked = {
        question: set(re.findall(r'__builtin_cpu_supports\("([^"]*)"\)', body))
        for question, body in re.findall(r"bool (has_\w+)\(\) \{(.*?)\n\}", choice, re.DOTALL)
    }
    asked["has_avx512"] |= asked["has_avx2"]
    assert "has_avx2()" in choice.partition("bool has_avx512() {")[2].partition("}")[0]
    assert wanted <= asked[f"has_{name}"]


def test_bfloat16_is_multiplied_where_the_processor_says_so(best):
    assert targets_of("bfloat16") == targets_of("avx512") | {"avx512bf16"}
    flags = Path("/proc/cpuinfo")
    if not flags.is_file():
        pytest.skip("no /proc/cpuinfo")
    has = re.search(r"^flags.*\bavx512_bf16\b", flags.read_text(encoding="utf-8"), re.MULTILINE) is not None
    has = has and re.match(r"gcc [1-9]\.", native.build_info()["compiler"]) is None  # which do not know it
    show = "import hyperloader; print(hyperloader.build_info()['multiplies_bfloat16'])"
    for limit in (None, "avx2"):
        done = subprocess.run([sys.executable, "-c", show], env=limited_to(limit), capture_output=True, text=True)
        assert done.stdout.strip() == str(has and best == "avx512" and limit is None), done.stderr
