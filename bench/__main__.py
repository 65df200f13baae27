"""Measures this package beside what a user would otherwise write.

python -m bench [CASE ...]        check every provider against the reference, time them in turn, write JSON and charts
python -m bench report [FOLDER]   put tables of what was measured into docs/speed.md, a figure into the README
python -m bench gate [--record]   compare operators, allocated bytes, instructions with those recorded, or record them
python -m bench bounds            compute what the GPU kernels can reach at best, and put it into docs/cuda.md
python -m bench serve RUN_FOLDER  the server of a run under load, and large files by `predict`, into docs/serving.md
python -m bench choose [FILE]     fill in what auto takes on a GPU: from the times in FILE, or from the bounds
"""

import argparse
import sys
from pathlib import Path

import torch

from bench import command, document, gate, instructions, report, results
from bench.cases import CASES
from bench.results import UsageError
from bench.session import Options, run_cases

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UsageError(message)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    commands = {"report": _report, "gate": _gate, "bounds": _bounds, "choose": _choose, "serve": _serve}
    name, *rest = arguments or [""]
    return command.run(lambda: commands[name](rest) if name in commands else _run(arguments))


def _run(arguments: list[str]) -> int:
    parser = _Parser(prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"any of {', '.join(CASES)}; all of them if none")
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument(
        "--threads",
        nargs="+",
        default=[str(torch.get_num_threads())],
        help="such as 1 2; sweeps run with the most of them",
    )
    parser.add_argument("--dtype", nargs="+", default=["float32"], help=f"any of {', '.join(DTYPES)}")
    parser.add_argument("--quick", action="store_true", help="the headline points alone")
    parser.add_argument("--small", action="store_true", help="sizes for which nothing is said, to see that all runs")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--add", action="store_true", help="to what FOLDER has; points of the same name are replaced")
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="for JSON and charts; bench/results/DEVICE")
    parser.add_argument("--list", action="store_true", help="name the cases and their points, and measure nothing")
    given = parser.parse_args(arguments)
    for name in given.cases:
        if name not in CASES:
            raise UsageError(f"CASE must be one of {', '.join(CASES)}, got {name!r}")
    chosen = [CASES[name] for name in dict.fromkeys(given.cases or CASES)]
    if given.list:
        for case in chosen:
            print(f"{case.name}: {case.title}")
            for point in case.points:
                print(f"  {point.name}{' (headline)' if point.headline else ''}")
        return 0
    options = Options(
        command.device("--device", given.device), _threads(given.threads), _dtypes(given.dtype), given.quick,
        not given.no_compile, given.small, given.add,
    )  # fmt: skip
    folder = given.output or results.ROOT / options.folder_name
    return run_cases(chosen, options, results.writable(folder))


def _report(arguments: list[str]) -> int:
    parser = _Parser(prog="python -m bench report")
    parser.add_argument("folder", nargs="?", metavar="FOLDER", type=Path, default=results.ROOT)
    parser.add_argument("--document", type=Path, default=document.SPEED, help="the file with the marks; docs/speed.md")
    given = parser.parse_args(arguments)
    report.write(given.folder, CASES, given.document)
    if given.document == document.SPEED:
        report.write_headline(report.widest(results.folders(given.folder, CASES)), CASES)
    return 0


def _gate(arguments: list[str]) -> int:
    parser = _Parser(prog="python -m bench gate")
    parser.add_argument("--record", action="store_true", help=f"write {gate.RECORDED.name} anew")
    given = parser.parse_args(arguments)
    if given.record:
        gate.record(CASES)
        return 0
    recorded = gate.read()
    grown = gate.grown(recorded, gate.measure(CASES))
    reason = instructions.missing() or instructions.comparable(recorded["instructions"])
    grown += [] if reason else gate.slower(recorded["instructions"], instructions.measure())
    print("\n".join(grown) or "nothing has grown")
    if reason:
        print(f"instructions were not counted: {reason}")
    return 1 if grown else 0


def _bounds(arguments: list[str]) -> int:
    from bench.bounds import report as bounds

    parser = _Parser(prog="python -m bench bounds")
    parser.add_argument("--output", metavar="FILE", type=Path, default=bounds.NOW, help="the JSON file")
    bounds.write(parser.parse_args(arguments).output)
    return 0


def _choose(arguments: list[str]) -> int:
    from bench.bounds import choice

    parser = _Parser(prog="python -m bench choose")
    parser.add_argument("file", nargs="?", metavar="FILE", type=Path, help="that bench.bounds.measured wrote")
    choice.write(parser.parse_args(arguments).file)
    return 0


def _serve(arguments: list[str]) -> int:
    from bench.serve.__main__ import main as serve

    return serve(arguments)


def _threads(values: list[str]) -> list[int]:
    for value in values:
        if not value.isdecimal() or int(value) < 1:
            raise UsageError(f"--threads must be whole numbers of at least 1, got {value!r}")
    return [int(value) for value in dict.fromkeys(values)]


def _dtypes(names: list[str]) -> list[torch.dtype]:
    for name in names:
        if name not in DTYPES:
            raise UsageError(f"--dtype must be any of {', '.join(DTYPES)}, got {name!r}")
    return [DTYPES[name] for name in dict.fromkeys(names)]


if __name__ == "__main__":
    sys.exit(main())
