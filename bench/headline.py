"""Three ratios and their figure: what the package is faster than, on one machine."""

from dataclasses import dataclass
from pathlib import Path

from bench import plot
from bench.case import BOTH
from bench.cases import mixed, step
from bench.providers import COMPILED, PLAIN, PUBLISHED, ours_name
from bench.results import Run, best_of_ours

FIGURE = "headline.png"
_SHOWN = (PLAIN, COMPILED, PUBLISHED, ours_name("native"), ours_name("triton"))


@dataclass(frozen=True)
class Headline:
    """A pass at a point of a case, and the provider that ours is compared with."""

    title: str
    case: str
    point: str
    name: str
    other: str


HEADLINES = (
    Headline(
        "all weights of a t5-base encoder, forward + backward",
        "generate", "12 layers, hidden 768, 1 task", BOTH, PUBLISHED,
    ),
    Headline(
        "an adapter on 4096 tokens × 768, forward + backward", "adapter", "4096 × 768, bottleneck 24", BOTH, PLAIN
    ),
    Headline(
        "a training step of MiniLM, 8 tasks in a batch", "mixed", mixed.point("MiniLM", 8, 16, 384).name, step.STEP,
        PLAIN,
    ),
)  # fmt: skip


def ratio(headline: Headline, run: Run) -> float | None:
    """How many times faster ours is; None where it was not measured."""
    rows = run.providers(headline.case, headline.point, headline.name)
    own = best_of_ours(rows)
    return None if own is None or headline.other not in rows else rows[headline.other]["median_s"] / own["median_s"]


def text(run: Run, device: str, chart: str) -> str:
    """Markdown: the figure, and a line a ratio."""
    lines = [f"![Milliseconds of three headline cases]({chart})", ""]
    for headline in HEADLINES:
        found = ratio(headline, run)
        if found is not None:
            lines.append(f"* **{found:.1f}×** {_name(headline.other)}: {headline.title}")
    threads = f"{run.threads} thread{'s' if run.threads > 1 else ''}"
    return "\n".join([*lines, "", f"Medians of one run on {device}, {threads}, {run.dtype}."])


def draw(run: Run, device: str, folder: Path) -> Path:
    """Write the figure of ``run``, and return its path."""
    from matplotlib.figure import Figure

    measured = [headline for headline in HEADLINES if ratio(headline, run) is not None]
    figure = Figure(figsize=(4.6 * len(measured), 2.6), layout="constrained")
    for place, headline in enumerate(measured):
        rows = run.providers(headline.case, headline.point, headline.name)
        axes = figure.add_subplot(1, len(measured), place + 1)
        plot.bars(axes, [rows[name] for name in _SHOWN if name in rows])
        axes.set_title(headline.title, fontsize=9)
    figure.suptitle(f"{device}, {run.threads} threads, {run.dtype}; median, p10 to p90", fontsize=10)
    path = folder / FIGURE
    figure.savefig(path, dpi=110)
    return path


def _name(provider: str) -> str:
    return {PUBLISHED: "the published way", PLAIN: "plain PyTorch"}[provider]
