"""One chart per case: sweeps as lines over the size that varies, headline points as bars where there is no sweep."""

import math
from pathlib import Path

from bench.providers import COMPILED, OURS, PEFT, PLAIN, PUBLISHED, ours_name

# Okabe and Ito's colours, which stay apart for colour-blind readers; markers tell the rest.
_STYLES = {
    PLAIN: ("#999999", "o"), COMPILED: ("#E69F00", "s"), PUBLISHED: ("#D55E00", "v"), PEFT: ("#CC79A7", "D"),
    **dict(zip(map(ours_name, OURS), [("#0072B2", "^"), ("#009E73", "P"), ("#56B4E9", "X")], strict=True)),
}  # fmt: skip
_OTHER = ("#000000", "*")  # the frozen part alone


def draw(result: dict, folder: Path) -> Path:
    """Write the chart of one case's result, for the largest number of threads, and return its path."""
    from matplotlib.figure import Figure

    run = max(result["runs"], key=lambda run: (run["threads"], run["dtype"] == "float32"))
    panels = _panels(run)
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5.2 * columns, 3.9 * rows), layout="constrained")
    for index, (title, series) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.set_title(title, fontsize=10)
        if series["sweep"] == "":
            bars(axes, series["rows"])
        else:
            _lines(axes, series)
    device = result["hardware"]["device"]
    threads = f", {run['threads']} thread{'s' if run['threads'] > 1 else ''}" if device_is_cpu(result) else ""
    figure.suptitle(f"{result['title']}: {device}{threads}, {run['dtype']}; median, p10 to p90", fontsize=11)
    path = folder / f"{result['case']}.png"
    figure.savefig(path, dpi=110)
    return path


def device_is_cpu(result: dict) -> bool:
    """Whether the result was measured on the CPU."""
    return result["options"]["device"] == "cpu"


def _panels(run: dict) -> dict[str, dict]:
    """Sweep and pass -> the points of its lines; without any sweep, point and pass -> one bar per provider."""
    sweeps = dict.fromkeys(point["sweep"] for point in run["points"] if point["sweep"])
    groups = {sweep: _of_sweep(run["points"], sweep) for sweep in sweeps}
    panels = {}
    for sweep, points in groups.items():
        if len(points) < 2:
            continue
        for one in points[0]["passes"]:
            panels[f"{_fixed(points, sweep)}{one['pass']}"] = {"sweep": sweep, "pass": one["pass"], "points": points}
    shown = {point["point"] for panel in panels.values() for point in panel["points"]}
    for point in run["points"]:
        if point["point"] not in shown:
            for one in point["passes"]:
                panels[f"{point['point']}: {one['pass']}"] = {"sweep": "", "rows": one["providers"]}
    return panels


def _of_sweep(points: list[dict], sweep: str) -> list[dict]:
    """The points of a sweep and the headline points that differ from them in the swept size alone, in its order."""
    size = _size(sweep)
    inside = [point for point in points if point["sweep"] == sweep]
    others = {key: value for key, value in inside[0]["sizes"].items() if key not in (size, "bottleneck")}
    fits = [
        point
        for point in points
        if point["headline"]
        and size in point["sizes"]
        and all(point["sizes"].get(key) == value for key, value in others.items())
    ]
    unique = {point["point"]: point for point in [*inside, *fits]}
    return sorted(unique.values(), key=lambda point: point["sizes"][size])


def _size(sweep: str) -> str:
    return sweep.partition(":")[0]


def _fixed(points: list[dict], sweep: str) -> str:
    """What does not change along a sweep."""
    first, *rest = (point["sizes"] for point in points)
    same = {key: value for key, value in first.items() if all(other[key] == value for other in rest)}
    return ", ".join(str(value) if isinstance(value, str) else f"{key} {value}" for key, value in same.items()) + "; "


def _lines(axes, series: dict) -> None:
    size = _size(series["sweep"])
    lines: dict[str, list[tuple]] = {}
    for point in series["points"]:
        one = next(one for one in point["passes"] if one["pass"] == series["pass"])
        for row in one["providers"]:
            if "median_s" in row:
                times = (1e3 * row[key] for key in ("median_s", "p10_s", "p90_s"))
                lines.setdefault(row["provider"], []).append((point["sizes"][size], *times))
    for name, values in lines.items():
        x, median, low, high = zip(*values, strict=True)
        colour, marker = _STYLES.get(name, _OTHER)
        dashed = "--" if name not in _STYLES else "-"
        axes.plot(x, median, dashed, color=colour, marker=marker, markersize=5, label=name)
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    ticks = sorted({point["sizes"][size] for point in series["points"]})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], fontsize=8)
    axes.minorticks_off()
    axes.set_xlabel(size)
    axes.set_ylabel("milliseconds")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def bars(axes, providers: list[dict]) -> None:
    """A bar a provider that was measured: its median, whiskers from p10 to p90."""
    rows = [row for row in providers if "median_s" in row]
    for place, row in enumerate(rows):
        median, low, high = (1e3 * row[key] for key in ("median_s", "p10_s", "p90_s"))
        colour, _ = _STYLES.get(row["provider"], _OTHER)
        spread = [[max(median - low, 0)], [max(high - median, 0)]]
        axes.barh(place, median, xerr=spread, color=colour, ecolor="#444444", capsize=2)
    labels = [f"{row['provider']}\n{1e3 * row['median_s']:.3g} ms" for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
    axes.grid(axis="x", alpha=0.3)
