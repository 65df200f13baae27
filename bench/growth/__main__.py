"""python -m bench.growth [--rounds 9] [--processes 1 2 4] [--report]

Training steps of small T5 models that differ from one in one size, with one thread, in turn: seconds and peak bytes;
and what a step of several processes sends, as the loopback device counts it, and takes. Beside each what the formulas
of bench/scaling.py say. Writes growth.json and growth.png, and the table in docs/scaling.md.
"""

import argparse
import json
import sys
from collections.abc import Sequence

import torch

from bench import command, machine, results
from bench.growth import processes, report, step
from hyperloader.checkpoints.atomic import write_text

FILE = results.ROOT / "growth" / "growth.json"


def main(words: Sequence[str] | None = None) -> None:
    """Measure, or make figure and table of what was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4], help="whose steps send bytes")

    def check(given: argparse.Namespace) -> None:
        if min([given.rounds, *given.processes]) < 1:
            parser.error("--rounds and --processes must be at least 1")

    given = command.parsed(parser, words, "growth", FILE, report.DOCUMENT, check)
    if not given.report:
        device = torch.device("cpu")
        found = {"versions": machine.versions(), "hardware": machine.hardware(device), "commit": machine.commit()}
        found |= {"steps": step.measure(step.AXES, given.rounds), "sent": processes.measure(given.processes)}
        write_text(given.file, json.dumps(found, indent=1) + "\n")
    report.write(given.file, given.document)


if __name__ == "__main__":
    sys.exit(command.run(main))
