"""Tables for the README, made from the JSON files alone."""

import os
from pathlib import Path

from bench import budget, results
from bench.results import Run, UsageError
from bench.table import ratios

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def write(folder: Path, cases, readme: Path = README) -> None:
    """Put the tables of every device under ``folder`` between the marks of ``readme``, and print them."""
    found = results.folders(folder, cases)
    if readme.name and not readme.is_file():
        raise UsageError(f"--readme must be a file, got {readme}")
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text.partition(BEGIN)[2]:
        raise UsageError(f"{readme} must hold the marks {BEGIN} and {END}, in this order")
    tables = render(found, cases, readme.resolve().parent)
    head, rest = text.split(BEGIN, 1)
    readme.write_text(f"{head}{BEGIN}\n{tables}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")
    print(tables)


def render(folders: list[Path], cases, base: Path) -> str:
    """Markdown: the budgets over all devices, then for each device what was measured at the headline points."""
    by_folder = {folder: results.read(folder, cases) for folder in folders if not folder.name.endswith("-quick")}
    by_folder = by_folder or {folder: results.read(folder, cases) for folder in folders}
    runs = [run for found in by_folder.values() for run in results.runs(found)]
    parts = [budget.table(runs)]
    for folder, found in by_folder.items():
        parts.append(_made_with(found))
        for name, result in found.items():
            chart = Path(os.path.relpath((folder / f"{name}.png").resolve(), base)).as_posix()
            title = f"<details><summary>{result['title']}, milliseconds</summary>"
            parts += [title, f"[Chart]({chart})", _headlines(name, found), "</details>"]
    return "\n\n".join(parts)


def _made_with(found: dict[str, dict]) -> str:
    """Hardware, versions and commits of the results of a folder."""
    first = next(iter(found.values()))
    commits = ", ".join(dict.fromkeys(result["commit"] for result in found.values() if result["commit"]))
    packages = ", ".join(f"{name} {version}" for name, version in first["versions"].items() if version)
    absent = "".join(f" No {name}: {reason}." for name, reason in first["missing_backends"].items())
    hardware = first["hardware"]
    return f"{hardware['device']}, {hardware['capability']}; {packages}; commit {commits}.{absent}"


def _headlines(case: str, found: dict[str, dict]) -> str:
    """A line per headline point, pass and provider, a column per run."""
    runs = [run for run in results.runs(found) if case in run.cases]
    titles = [f"{run.threads} thread{'s' if run.threads > 1 else ''}, {run.dtype}" for run in runs]
    lines = [
        f"| point | provider | {' | '.join(titles)} | peak MiB | operators |",
        f"|---|---|{'---:|' * (len(runs) + 2)}",
    ]
    for point in runs[-1].cases[case]["points"]:
        if point["headline"]:
            for one in point["passes"]:
                lines += _of_pass(case, point["point"], one, runs)
    return "\n".join(lines)


def _of_pass(case: str, point: str, one: dict, runs: list[Run]) -> list[str]:
    lines = []
    for number, row in enumerate(one["providers"]):
        name = row["provider"]
        cells = [_cell(run.find(case, point, one["pass"]), name) for run in runs]
        memory = f"{row['peak_bytes'] / 2**20:.1f}" if "peak_bytes" in row else ""
        operators = row.get("operators") or ""
        label = f"{point}: {one['pass']}" if number == 0 else ""
        lines.append(f"| {label} | {name} | {' | '.join(cells)} | {memory} | {operators} |")
    return lines


def _cell(one: dict | None, name: str) -> str:
    """Median and speed relative to the baseline, or why there is none."""
    row = next((row for row in one["providers"] if row["provider"] == name), None) if one else None
    if row is None:
        return ""
    if "error" in row:
        return row["error"].replace("|", "/")
    speed = ratios(one).get(name)
    return f"{1e3 * row['median_s']:.3g}" + (f" ({speed:.2f}×)" if speed is not None else "")
