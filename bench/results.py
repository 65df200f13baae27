"""The JSON files: one per case in the folder of a device."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.providers import OURS, ours_name
from hyperloader.checkpoints.atomic import write_text

FORMAT = 1
ROOT = Path(__file__).resolve().parent / "results"
_OF_RUN = ("date", "commit", "versions", "missing_backends", "freed_memory_kept")  # what a point says that was added


class UsageError(ValueError):
    """Something that the user has to change: one line, naming what."""


@dataclass(frozen=True)
class Run:
    """Everything measured on one device with one number of threads and one dtype, over all cases."""

    device: str
    threads: int
    dtype: str
    capability: str  # the instruction sets that PyTorch used
    cases: dict[str, dict]  # case -> {"floor": ..., "points": ...}

    def providers(self, case: str, point: str, name: str) -> dict[str, dict]:
        """What was measured of each provider at a point, in the pass ``name``; empty where nothing was."""
        found = self.find(case, point, name)
        rows = found["providers"] if found else []
        return {row["provider"]: row for row in rows if "median_s" in row}

    def find(self, case: str, point: str, name: str) -> dict | None:
        """The pass ``name`` at a point, or None."""
        for at in self.cases.get(case, {"points": []})["points"]:
            for one in at["passes"]:
                if at["point"] == point and one["pass"] == name:
                    return one
        return None

    def floor(self, case: str, point: str) -> dict[str, float]:
        """What the machine could do at best when a point was measured."""
        of_case = self.cases[case]
        return next(
            (at["floor"] for at in of_case["points"] if at["point"] == point and "floor" in at), of_case["floor"]
        )


def best_of_ours(rows: dict[str, dict], suffix: str = "") -> dict | None:
    """The row of the fastest kind of backend that was measured: native, else Triton, else the reference."""
    for backend in OURS:
        if ours_name(backend) + suffix in rows:
            return rows[ours_name(backend) + suffix]
    return None


def write(folder: Path, result: dict) -> Path:
    """Write the result of one case."""
    path = folder / f"{result['case']}.json"
    write_text(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return path


def to_add_to(folder: Path, case: str, hardware: dict) -> dict | None:
    """The result of a case that a run on ``hardware`` can be added to, None where there is none; raises ``UsageError``
    for one of another machine."""
    before = read(folder, [case]).get(case)
    if before is not None and before["hardware"] != hardware:
        raise UsageError(
            f"--add must be to results of this machine, {hardware}; {folder / case}.json is of {before['hardware']}: "
            "leave it out, or name another --output"
        )
    return before


def joined(before: dict, now: dict) -> dict:
    """The result ``before`` of a case with the points of ``now``: in the place of those with the same name, threads and
    dtype, or after them. Each of these says when and with what it was measured."""
    of_now = {key: now[key] for key in _OF_RUN}
    runs = {(run["threads"], run["dtype"]): run for run in before["runs"]}
    for run in now["runs"]:
        points = {point["point"]: {**point, **of_now, "floor": run["floor"]} for point in run["points"]}
        known = runs.setdefault((run["threads"], run["dtype"]), {**run, "points": []})
        kept = [points.pop(point["point"], point) for point in known["points"]]
        runs[run["threads"], run["dtype"]] = {**known, "points": [*kept, *points.values()]}
    return {**before, "runs": [runs[key] for key in sorted(runs)]}


def made(result: dict, point: dict) -> dict:
    """When and with what a point of a result was measured: as it says itself, else as the result does."""
    return {key: point.get(key, result.get(key)) for key in _OF_RUN}


def writable(folder: Path, argument: str = "--output") -> Path:
    """Make the folder; raises ``UsageError``, which names the ``argument``, where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".bench-can-write"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"{argument} must be a folder that can be written, got {folder}: {error.strerror or error}"
        ) from error
    return folder


def read(folder: Path, cases) -> dict[str, dict]:
    """The results in ``folder`` by case, in the order of ``cases``; raises ``UsageError`` for a file that is none."""
    found = {}
    for name in cases:
        path = folder / f"{name}.json"
        if not path.is_file():
            continue
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(f"{path}: must be a result of `python -m bench`, got no JSON: {error}") from error
        if not isinstance(result, dict) or result.get("format") != FORMAT:
            raise UsageError(f"{path}: must be a result of this version of the benchmark; run `python -m bench {name}`")
        found[name] = result
    return found


def folders(folder: Path, cases) -> list[Path]:
    """``folder``, or those inside it, that hold results, the CPU's first; raises ``UsageError`` where none does."""
    if not folder.is_dir():
        raise UsageError(f"FOLDER must be a folder of results, got {folder}; run `python -m bench` first")
    candidates = [folder, *sorted(folder.iterdir(), key=lambda path: (not path.name.startswith("cpu"), path.name))]
    found = [one for one in candidates if any((one / f"{name}.json").is_file() for name in cases)]
    if not found:
        raise UsageError(f"FOLDER must hold results such as adapter.json, got none in {folder}; run `python -m bench`")
    return found


def runs(results: dict[str, dict]) -> Iterator[Run]:
    """One ``Run`` for every number of threads and dtype that occurs in the results of a folder."""
    keys = dict.fromkeys((run["threads"], run["dtype"]) for result in results.values() for run in result["runs"])
    for threads, dtype in sorted(keys):
        cases = {
            name: run
            for name, result in results.items()
            for run in result["runs"]
            if (run["threads"], run["dtype"]) == (threads, dtype)
        }
        first = next(iter(results.values()))
        yield Run(first["options"]["device"], threads, dtype, first["hardware"]["capability"], cases)
