"""Figure and table of how a step grows."""

import json
from collections.abc import Sequence
from pathlib import Path

from bench import document
from bench.growth.step import BASE, computed

DOCUMENT = document.ROOT / "docs" / "scaling.md"
_ROWS = ("milliseconds", "MiB at the peak")


def write(path: Path, into: Path = DOCUMENT) -> None:
    """Draw growth.png beside the JSON, and put the table into a document."""
    found = json.loads(path.read_text(encoding="utf-8"))
    figure = _draw(found, path.with_suffix(".png"))
    document.put(into, "growth", render(found, document.link(into, figure)))


def render(found: dict, figure: str) -> str:
    """Markdown: a line for each size that grows, then the bytes on the network, then the figure."""
    hardware, versions, one = found["hardware"]["device"], found["versions"]["torch"], BASE.backbone
    lines = [
        f"Measured (one thread of {hardware}, torch {versions}): a T5 with {one.layers} layers a stack, {one.hidden} "
        f"wide, rank {BASE.config.rank}, {BASE.tasks} tasks with `sparse_gradients`, a step of {BASE.sentences} "
        f"sentences of {BASE.tokens} tokens of {BASE.tasks_of_batch} tasks, and one of these changed at a time. "
        "Computed: operations by the formula at the rate of the first model, and the formula's bytes with activations "
        "that grow as tokens · layers · width, from the first model too.",
        "",
        "| changed | to | milliseconds: measured | computed | MiB at the peak: measured | computed |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row, (seconds, peak) in zip(found["steps"], computed(found["steps"]), strict=True):
        lines.append(
            f"| {row['axis']} | {row['value']:,} | {1e3 * row['median_s']:,.0f} | {1e3 * seconds:,.0f} | "
            f"{row['peak'] / 2**20:,.0f} | {peak / 2**20:,.0f} |"
        )
    lines += ["", f"![Milliseconds and memory of a step by each size]({figure})"]
    if found["sent"]:
        lines += [
            "",
            "What a process sends a step with 1,000 tasks, as the loopback device counted it, and how long forward, "
            "backward and exchange take where each process has a processor (here are "
            f"{found['hardware']['processors']}):",
            "",
            "| processes | sparse: sent | computed | milliseconds | dense: sent | computed | milliseconds |",
            "|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for count in dict.fromkeys(row["processes"] for row in found["sent"]):
            kinds = {row["sparse"]: row for row in found["sent"] if row["processes"] == count}
            cells = []
            for kind in (True, False):
                cells += [f"{kinds[kind][key] / 1e6:,.2f} MB" for key in ("sent", "computed")]
                alone = count <= found["hardware"]["processors"]
                cells.append(f"{1e3 * kinds[kind]['median_s']:,.0f}" if alone else "")
            lines.append(f"| {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _draw(found: dict, path: Path) -> Path:
    from matplotlib.figure import Figure

    rows: Sequence[dict] = found["steps"]
    lines = list(zip(rows, computed(rows), strict=True))
    axes_names = list(dict.fromkeys(row["axis"] for row in rows))
    figure = Figure(figsize=(2.7 * len(axes_names), 5.6), layout="constrained")
    for across, name in enumerate(axes_names):
        values = [row["value"] for row in rows if row["axis"] == name]
        measured = [
            [1e3 * row["median_s"] for row, _ in lines if row["axis"] == name],
            [row["peak"] / 2**20 for row, _ in lines if row["axis"] == name],
        ]
        expected = [
            [1e3 * seconds for row, (seconds, _) in lines if row["axis"] == name],
            [peak / 2**20 for row, (_, peak) in lines if row["axis"] == name],
        ]
        for down, title in enumerate(_ROWS):
            axes = figure.add_subplot(len(_ROWS), len(axes_names), down * len(axes_names) + across + 1)
            axes.plot(values, expected[down], "-", color="#999999", label="computed")
            axes.plot(values, measured[down], "^", color="#0072B2", label="measured")
            axes.set(xscale="log", yscale="log", xlabel=name, ylabel=title if across == 0 else "")
            axes.set_xticks(values, [f"{value:,}" for value in values], fontsize=8)
            axes.set_ylim(min(measured[down]) / 3, max(measured[down]) * 3)
            axes.minorticks_off()
            axes.grid(alpha=0.3)
            if across == 0:
                axes.legend(fontsize=8)
    figure.suptitle(f"A training step as each size grows: one thread of {found['hardware']['device']}", fontsize=11)
    figure.savefig(path, dpi=90)
    return path
