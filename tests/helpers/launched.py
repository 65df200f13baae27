"""The commands in processes of their own, one or several that work together."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def start(count, *words, restarts=0, program=None):
    """Begin `hyperloader WORDS...`, or ``program`` with them, in ``count`` processes by torchrun; 0: without it."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", f"--max-restarts={restarts}"]
    program = program or [sys.executable, *(launch if count else []), "-m", "hyperloader.cli"]
    command = [*map(str, program), *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(count, *words, status=0, program=None):
    """The same to its end; returns what it says and its errors."""
    process = start(count, *words, program=program)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == status, errors[-3000:]
    return output, errors


def cut(output, step):
    """Make of the run in ``output`` one that was killed after ``step``."""
    for path in (*output.glob("metrics.json"), *output.glob("best/*")):
        path.unlink()
    if (output / "best").exists():
        (output / "best").rmdir()
    for checkpoint in output.glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > step:
            for path in checkpoint.iterdir():
                path.unlink()
            checkpoint.rmdir()
