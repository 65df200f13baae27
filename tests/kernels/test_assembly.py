"""What ptxas makes of every Triton kernel for Hopper computes its addresses before it uses them. No GPU is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.sass import reads_of_nothing

from hyperloader.ops import _triton

ROOT = Path(__file__).resolve().parents[2]
# kernels at sizes around those of one step, compiled in a process that does not interpret them
PROGRAM = """
import json, sys
import torch
from bench import kernel_report as report
from helpers.sass import disassemble, reads_of_nothing

found, seen = [], set()
for size in json.loads(sys.argv[1]):
    report.RANK = size.get("rank", 8)
    for case, call in report.cases(report.Model(size["hidden"], 4 * size["hidden"]), torch.float16).items():
        if size.get("only", "") not in case:
            continue
        with report.compiling("sm_90") as compiled:
            call()
        for name, kernel in compiled:
            if kernel.hash not in seen:
                seen.add(kernel.hash)
                found += [[size, case, name, read] for read in reads_of_nothing(disassemble(kernel.asm["cubin"]))]
print(json.dumps({"kernels": len(seen), "found": found}))
"""
SIZES = {"lora of one step": [{"hidden": 64, "only": "lora"}]}
SLOW = {
    "lora of other sizes": [{"hidden": hidden, "only": "lora"} for hidden in (32, 96, 128, 2048)],
    "lora of other ranks": [
        {"hidden": hidden, "rank": rank, "only": "lora"} for hidden in (32, 64) for rank in (1, 24, 64)
    ],
    "every operator, 64": [{"hidden": 64}],
    "every operator, t5-base": [{"hidden": 768}],
}
needs_triton = pytest.mark.skipif(not _triton.installed(), reason=f"Triton {_triton.LEAST} or newer is not installed")


@needs_triton
@pytest.mark.parametrize(
    "sizes",
    [*(pytest.param(sizes, id=name) for name, sizes in SIZES.items()),
     *(pytest.param(sizes, id=name, marks=pytest.mark.slow) for name, sizes in SLOW.items())],
)  # fmt: skip
def test_uniform_registers_are_written_before_they_are_read(sizes):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(str(path) for path in (ROOT, ROOT / "tests"))
    command = [sys.executable, "-c", PROGRAM, json.dumps(sizes)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kernels"] >= 3
    assert not report["found"], "\n".join(map(str, report["found"]))


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("UMOV UR4, 0x2 ; UIADD3 UR5, UP0, UR4, 0x2, URZ ;", []),
        ("UIADD3 UR29, UP0, UR29, 0x2, URZ ;", ["UIADD3 UR29, UP0, UR29, 0x2, URZ ;"]),
        ("@!UP0 ULDC.64 UR4, c[0x0][0x208] ; LDG.E.64 R32, desc[UR4][R60.64] ;", []),
        ("UMOV UR4, URZ ; LDG.E.64 R32, desc[UR4][R60.64] ;", ["LDG.E.64 R32, desc[UR4][R60.64] ;"]),
        ("ULDC.64 UR6, c[0x0][0x0] ; HGMMA.64x32x16.F32 R24, R40, gdesc[UR4].tnspB, R24, gsb0 ;", []),
        ("ULDC.64 UR6, c[0x0][0x0] ; HGMMA.64x8x16.F32 R24, gdesc[UR4] ;", ["HGMMA.64x8x16.F32 R24, gdesc[UR4] ;"]),
        ("IMAD.U32 R58, RZ, RZ, UR4 ;", ["IMAD.U32 R58, RZ, RZ, UR4 ;"]),
    ],
)  # fmt: skip
def test_what_is_read_of_nothing(code, found):
    assert reads_of_nothing(code.replace("; ", ";\n")) == found
