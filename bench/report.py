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
            parts += [title, f"[Chart]({chart})", _headlines(name, found), "</details>"]
    return "\n\n".join(parts)


def _made_with(found: dict[str, dict]) -> str:
    """Hardware, versions and commits of the results of a folder."""
    first = next(iter(found.values()))
    points = [point for result in found.values() for run in result["runs"] for point in run["points"]]
    commits = ", ".join(dict.fromkeys(one["commit"] for one in [*found.values(), *points] if one.get("commit")))
    packages = ", ".join(f"{name} {version}" for name, version in first["versions"].items() if version)
    absent = "".join(f" No {name}: {reason}." for name, reason in first["missing_backends"].items())
    hardware = first["hardware"]
    return f"{hardware['device']}, {hardware['capability']}; {packages}; commit {commits}.{absent}"


def _headlines(case: str, found: dict[str, dict]) -> str:
    """A line per headline point, pass and provider, a column per run."""
    runs = [run for run in results.runs(found) if case in run.cases]
    titles = [f"{run.threads} thread{'s' if run.threads > 1 else ''}, {run.dtype}" for run in runs]
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
