"""Tables for the documents, made from the JSON files alone."""

from pathlib import Path

from bench import budget, document, headline, results
from bench.results import Run
from bench.table import ratios

MARK, HEADLINE_MARK = "bench", "speed"


def write(folder: Path, cases, page: Path = document.SPEED) -> None:
    """Put the tables of every device under ``folder`` between the marks of ``page``, and print them."""
    found = results.folders(folder, cases)
    document.check(page, MARK)
    document.put(page, MARK, render(found, cases, page))


def widest(folders: list[Path]) -> Path:
    """Of the CPUs' folders the one with most instruction sets, measured whole; the first folder if there is none."""
    whole = [one for one in folders if one.name.startswith("cpu") and not one.name.endswith(("-quick", "-limited"))]
    return whole[-1] if whole else folders[0]


def write_headline(folder: Path, cases, page: Path = document.README) -> None:
    """Draw the three headline cases of the machine in ``folder``, with most threads, and put them into ``page``."""
    found = results.read(folder, cases)
    run = max(results.runs(found), key=lambda run: (run.threads, run.dtype == "float32"))
    hardware = next(iter(found.values()))["hardware"]
    device = f"{hardware['device']} ({hardware['capability']})"
    chart = headline.draw(run, device, folder)
    document.put(page, HEADLINE_MARK, headline.text(run, device, document.link(page, chart)))


def render(folders: list[Path], cases, page: Path) -> str:
    """Markdown: the budgets over all devices, then for each device what was measured at the headline points."""
    by_folder = {folder: results.read(folder, cases) for folder in folders if not folder.name.endswith("-quick")}
    by_folder = by_folder or {folder: results.read(folder, cases) for folder in folders}
    runs = [run for found in by_folder.values() for run in results.runs(found)]
    parts = [budget.table(runs)]
    for folder, found in by_folder.items():
        parts.append(_made_with(found))
        for name, result in found.items():
            chart = document.link(page, folder / f"{name}.png")
            title = f"<details><summary>{result['title']}, milliseconds</summary>"
            parts += [title, f"[Chart]({chart})", _headlines(name, found), _when(name, found), "</details>"]
    return "\n\n".join(parts)


def _made_with(found: dict[str, dict]) -> str:
    """Hardware, versions and commits of the results of a folder."""
    made = _made(found)
    hardware = next(iter(found.values()))["hardware"]
    packages = ", ".join(f"{name} {' and '.join(of_name)}" for name, of_name in _versions(made).items() if of_name)
    commits = ", ".join(dict.fromkeys(one["commit"] for one in made if one["commit"]))
    absent = "".join(f" No {name}: {reason}." for name, reason in _absent(made).items())
    limits = f" (limited by `{hardware['limited_by']}`)" if "limited_by" in hardware else ""
    return f"{hardware['device']}, {hardware['capability']}{limits}; {packages}; commit {commits}.{absent}"


def _made(found: dict[str, dict]) -> list[dict]:
    return [
        results.made(result, point) for result in found.values() for run in result["runs"] for point in run["points"]
    ]


def _versions(made: list[dict]) -> dict[str, list[str]]:
    """Of every package the versions that were measured with."""
    names = dict.fromkeys(name for one in made for name in one["versions"])
    versions = {name: dict.fromkeys(one["versions"].get(name) for one in made) for name in names}
    return {name: [one for one in of_name if one] for name, of_name in versions.items()}


def _absent(made: list[dict]) -> dict[str, str]:
    """The backends that were always missing, and why."""
    return {
        name: reason for one in made[:1] for name, reason in one["missing_backends"].items()
        if all(name in one["missing_backends"] for one in made)
    }  # fmt: skip


def _when(case: str, found: dict[str, dict]) -> str:
    """When and at which commit the lines of a case were measured, and with which versions where a folder has several;
    of several times, which columns and points each has measured."""
    result, made = found[case], _made(found)
    several, absent = [name for name, of_name in _versions(made).items() if len(of_name) > 1], _absent(made)
    times: dict[str, dict[str, list[str]]] = {}  # a time -> column -> points
    columns: dict[str, list[str]] = {}
    for run in result["runs"]:
        for point in run["points"]:
            if point["headline"]:
                one, column = results.made(result, point), _column(run["threads"], run["dtype"])
                parts = [one["date"][:10], *([f"commit {one['commit']}"] if one["commit"] else [])]
                parts += [f"{name} {one['versions'].get(name)}" for name in several]
                parts += [f"no {name}" for name in one["missing_backends"] if name not in absent]
                times.setdefault(", ".join(parts), {}).setdefault(column, []).append(point["point"])
                columns.setdefault(column, []).append(point["point"])
    if len(times) < 2:
        return "".join(f"Measured {time}." for time in times)
    said = []
    for time, of_time in times.items():
        names = [one if points == columns[one] else f"{one}: {', '.join(points)}" for one, points in of_time.items()]
        said.append(f"{time} ({'; '.join(names)})")
    return f"Measured {'; '.join(said)}."


def _headlines(case: str, found: dict[str, dict]) -> str:
    """A line per headline point, pass and provider, a column per run."""
    runs = [run for run in results.runs(found) if case in run.cases]
    titles = [_column(run.threads, run.dtype) for run in runs]
    of_last = f" ({titles[-1]})" if len(titles) > 1 else ""
    lines = [
        f"| point | provider | {' | '.join(titles)} | peak MiB{of_last} | operators{of_last} |",
        f"|---|---|{'---:|' * (len(runs) + 2)}",
    ]
    for point in runs[-1].cases[case]["points"]:
        if point["headline"]:
            for one in point["passes"]:
                lines += _of_pass(case, point["point"], one, runs)
    return "\n".join(lines)


def _column(threads: int, dtype: str) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}, {dtype}"


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
