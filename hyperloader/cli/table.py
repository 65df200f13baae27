"""Tables of plain text, the same on a terminal and in a file."""

import math
from collections.abc import Mapping, Sequence

from hyperloader.training.headlines import BESIDE, HEADLINES, MEAN_F1, PERPLEXITY, headline, mean_key, mean_of


def table(header: Sequence[str], rows: Sequence[Sequence], *, total: Sequence | None = None, digits: int = 1) -> str:
    """Aligned columns: text to the left, numbers to the right, fractions with ``digits``; ``total`` stands under a
    rule.

    A number that there is not (NaN) is a dash.
    """
    body = [[_cell(value, digits) for value in row] for row in (*rows, *([total] if total else []))]
    numeric = [all(isinstance(row[column], int | float) for row in rows) for column in range(len(header))]
    widths = [max(len(row[column]) for row in (header, *body)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        parts = zip(cells, widths, numeric, strict=True)
        return "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in parts).rstrip()

    rule = "  ".join("-" * width for width in widths)
    lines = [line(header), rule, *(line(row) for row in body)]
    if total:
        lines.insert(-1, rule)
    return "\n".join(lines)


def scores_table(scores: Mapping) -> str:
    """The scores of every task in per cent, and their mean: ``scores`` as a run's ``evaluate`` gives them."""
    if any("f1" not in one for one in scores["tasks"].values()):
        return _table_of_kinds(scores)
    rows = [
        (task, 100 * one["f1"], 100 * one["precision"], 100 * one["recall"], one["spans"], one["sentences"])
        for task, one in scores["tasks"].items()
    ]
    total = ("mean", 100 * scores["mean_f1"], "", "", "", "") if len(rows) > 1 else None
    return table(("task", "F1 %", "precision %", "recall %", "spans", "sentences"), rows, total=total)


def _table_of_kinds(scores: Mapping) -> str:
    """The headline score of every task, beside it the others, where tasks are of several kinds."""
    rows = []
    for task, one in scores["tasks"].items():
        key = headline(one)
        beside = [f"{BESIDE[name]} {100 * value:.1f}" for name, value in one.items() if name in BESIDE]
        beside += [f"{PERPLEXITY} {one[PERPLEXITY]:.4g}"] if PERPLEXITY in one else []
        rows.append((task, HEADLINES[key], 100 * one[key], ", ".join(beside), one["sentences"]))
    total = ("mean", "", 100 * mean_of(scores), "", "") if len(rows) > 1 else None
    return table(("task", "score", "%", "beside it", "sentences"), rows, total=total)


def scored_by(scores: Mapping) -> str:
    """What the scores of a run are, in words."""
    return "micro-F1 over spans" if mean_key(scores) == MEAN_F1 else "the score of each task's kind"


def _cell(value: str | float, digits: int) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return "-"
        return f"{value:,.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
