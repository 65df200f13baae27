"""Everything that needs a GPU, in calls of nine minutes at most, each going on where the last one ended.

    bench/gpu.sh [WORD ...] [--again] [--fresh] [--list]

takes the steps whose names have a WORD in them; all of them if none. What failed is tried once more with ``--again``
alone. Results, and what is done, go to bench/results/<name of the GPU>, and into one file $OUT/<name>.tar.gz if OUT
names a folder: unpacked in bench/results of a fresh checkout, it lets the next call go on there. DEVICE=cpu tries all
out.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import torch

from bench import budget, command, machine, results
from bench.bounds import measured, report
from bench.bounds.device import H100
from bench.cases import CASES
from bench.gpu.session import FAILED, Session
from bench.gpu.steps import steps


def main(arguments: list[str] | None = None) -> int:
    """Run what is open; returns the exit status: 1 where a step failed in this call."""
    parser = argparse.ArgumentParser(prog="bench/gpu.sh", description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--again", action="store_true", help="try what failed once more")
    parser.add_argument("--fresh", action="store_true", help="forget what was done")
    parser.add_argument("--list", action="store_true", help="name the steps and what became of them, and run none")
    parser.add_argument("--seconds", type=float, default=540, help="of this call")
    given = parser.parse_args(arguments)
    if "DEVICE" not in os.environ and not torch.cuda.is_available():
        raise results.UsageError("PyTorch sees no GPU; DEVICE=cpu tries this out without one")
    device = command.device("DEVICE", os.environ.get("DEVICE", "cuda"))
    name, out = machine.slug(device), os.environ.get("OUT")
    # what git ignores outlasts a call on a machine that is kept
    folder, saved = results.ROOT.parents[1] / "build" / "gpu" / name, results.ROOT / name
    archive = Path(out) / f"{name}.tar.gz" if out else None
    here = Session(folder, saved if device.type == "cuda" else None, archive, given.seconds)
    if given.fresh:
        here.forget()
    chosen = [
        one for one in steps(device.type, here.folder) if not given.words or any(w in one.name for w in given.words)
    ]
    if given.list:
        print("\n".join(f"{here.status(one) or 'open':8} {one.name}" for one in chosen))
        return 0
    lines = here.run(chosen, given.again)
    print(shown(here))
    print("\n".join([*lines, f"{given.seconds - here.left:.0f} s in all; results in {archive or folder}"]))
    return 1 if any(line.startswith(FAILED) and "before:" not in line for line in lines) else 0


def shown(here: Session) -> str:
    """What is measured so far: kernels over their bounds, then the budgets."""
    parts = []
    times = here.folder / "kernels.json"
    if times.is_file():
        content = json.loads(times.read_text(encoding="utf-8"))
        parts.append(measured.table(report.read(report.NOW), content["calls"]))
        device, rate = content["hardware"]["device"], content["floor"]["bytes_per_s"] / 1e12
        parts.append(
            f"{device}, copies at {rate:.2f} TB/s; the bounds are an H100's, with {H100.memory / 1e12} TB/s.\n"
            f"`python -m bench choose {times}` fills in what auto takes on a GPU."
        )
    found = results.read(here.folder, CASES)
    if found:
        parts.append(budget.table(list(results.runs(found))))
    return "\n\n".join(parts) or "nothing was measured"


if __name__ == "__main__":
    sys.exit(command.run(main))
