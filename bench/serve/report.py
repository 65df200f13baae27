"""Figure and table of what was measured of the server."""

import json
from pathlib import Path

from bench import document

DOCUMENT = document.ROOT / "docs" / "serving.md"
_NAMES = {"mixed": "mixed batches", "one_task": "one task a batch"}


def write(path: Path, into: Path = DOCUMENT) -> None:
    """Draw serve.png beside the JSON, and put the table into a document."""
    found = json.loads(path.read_text(encoding="utf-8"))
    figure = _draw(found, path.with_suffix(".png"))
    document.put(into, "serve", _text(found, document.link(into, figure)))


def _draw(found: dict, path: Path) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 3.9), layout="constrained")
    for place, share in enumerate((50, 99)):
        axes = figure.add_subplot(1, 2, place + 1)
        for name, colour, marker in (("mixed", "#0072B2", "^"), ("one_task", "#D55E00", "v")):
            rows = found[name]["rates"]
            axes.plot([row["offered_per_s"] for row in rows], [row[f"p{share}_ms"] for row in rows], color=colour,
                      marker=marker, label=_NAMES[name])  # fmt: skip
        axes.axvline(found["offline_per_s"], color="#999999", linestyle="--", label="without a server")
        axes.set(yscale="log", xlabel="sentences a second that arrive", ylabel="ms", title=f"p{share} of a request")
        axes.legend(fontsize=8)
    figure.suptitle(
        f"{len(found['tasks'])} tasks mixed, {found['inputs']} sentences a request: {found['hardware']['device']}, "
        f"{found['threads']} threads, client on the same machine",
        fontsize=11,
    )
    figure.savefig(path, dpi=110)
    return path


def _text(found: dict, figure: str) -> str:
    mixed, alone, offline = found["mixed"], found["one_task"], found["offline_per_s"]
    most = mixed["clients"][-1]["sentences_per_s"]
    lines = [
        f"{len(found['tasks'])} tasks mixed at random, {found['inputs']} sentences a request, on "
        f"{found['hardware']['device']} ({found['threads']} threads; the client runs there too). Without a server "
        f"(`Tagger`) {offline:,.0f} sentences a second; the server answers at most {most:,.0f} ({most / offline:.2f} "
        "of that). Clients that each wait for an answer before they ask again:",
        "",
        "| clients | answered a second | with one task a batch | times as many | p99 | with one task a batch |",
        "|---:|---:|---:|---:|---:|---:|",
        *(_clients(one, other) for one, other in zip(mixed["clients"], alone["clients"], strict=True)),
        "",
        "Requests at random times, whoever waits:",
        "",
        "| arrive a second | answered | p50 | p99 | one task a batch: answered | p50 | p99 |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one, other in zip(mixed["rates"], alone["rates"], strict=True):
        cells = [f"{one['offered_per_s']:,.0f}"]
        for row in (one, other):
            cells += [f"{row['sentences_per_s']:,.0f}", f"{row['p50_ms']:,.0f} ms", f"{row['p99_ms']:,.0f} ms"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"![Latency by rate]({figure})", ""]
    if "soak" in found:
        soak = found["soak"]
        first, top, last = soak["memory_mib"]
        minutes = ", ".join(f"{one:,}" for one in soak["memory_each_10_s"][6::6])
        lines.append(
            f"{soak['seconds'] / 60:.0f} minutes at {soak['offered_per_s']:,.0f} a second: "
            f"{soak['requests']:,} requests, {soak['refused']:,} refused, {soak['lost']:,} lost, "
            f"{soak['wrong']:,} wrong; memory {first:,} MiB at the start, {minutes} after each minute, "
            f"{last:,} at the end (at most {top:,})."
        )
    killed, predict = found["kill_and_reload"], found["predict"]
    (before_name, before), (now_name, now) = predict["sentences_per_s"].items()
    lines += [
        f"Under load, {killed['reloads']} reloads, one end in order and one kill, each with a new process after it; "
        f"clients ask again: {killed['requests']:,} requests, {killed['lost']} lost, {killed['wrong']} wrong.",
        "",
        f"`hyperloader predict` on {predict['sentences']:,} sentences of mixed lengths ({predict['words']:,} words): "
        f"{before:,.0f} a second ({before_name}), {now:,.0f} {now_name}, {now / before:.2f} times as many "
        f"({predict['different_answers']} answers differ).",
    ]
    return "\n".join(lines)


def _clients(one: dict, other: dict) -> str:
    times = one["sentences_per_s"] / other["sentences_per_s"]
    rates = f"{one['sentences_per_s']:,.0f} | {other['sentences_per_s']:,.0f} | {times:.2f}"
    return f"| {one['clients']} | {rates} | {one['p99_ms']:,.0f} ms | {other['p99_ms']:,.0f} ms |"
