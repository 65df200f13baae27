"""Tables and charts of a study, made from its JSON files alone."""

import json
import statistics

from bench import document
from bench.study import charts
from bench.study.plan import Plan, Stage
from bench.study.significance import compare_all
from hyperloader.training.metrics import Counts, load_counts

MARK = "study"
_OURS = "hyperloader"  # the row that the others are compared with
_RESAMPLES = 2000
_SAME = 0.01  # a difference in mean F1 that one short run cannot show


def write(plan: Plan) -> None:
    """Put all tables into docs/results.md and the means into the README, and draw one chart per stage."""
    stages = [stage for stage in plan.stages if results(plan, stage)]  # a study may be reported before its end
    compared = [stage for stage in stages if stage.split == "test"]
    ablations = [_ablation_table(plan, stage) for stage in stages if stage.split == "validation"]
    compared_tables = [_stage_table(plan, stage) for stage in compared]
    parts = [*compared_tables, _step_table(plan), _search_table(plan), *ablations]
    text = "\n\n".join(part for part in parts if part)
    for stage in compared:
        charts.scores(plan, stage, results(plan, stage))
        charts.curves(plan, stage, results(plan, stage))
    document.put(document.RESULTS, MARK, text)
    document.put(document.README, MARK, _means_table(plan, compared))


def chosen_rates(plan: Plan) -> dict[str, float]:
    """For every row of the search the lowest learning rate within a point of the best mean validation F1 of the search.

    Scores of single short runs differ by about a point from seed to seed, and longer runs want lower rates.
    """
    return {method: _chosen(tried) for method, tried in _search_scores(plan).items()}


def _chosen(tried: dict[float, float]) -> float:
    best = max(tried.values())
    return min(rate for rate, score in tried.items() if score >= best - _SAME)


def results(plan: Plan, stage: Stage) -> dict[str, list[dict]]:
    """The finished runs of a stage, by row, one a seed."""
    found = {}
    for row in (row for row in plan.rows if row in stage.rows):
        paths = [plan.results / f"{stage.name}-{row}-{seed}.json" for seed in stage.seeds]
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
        if runs:
            found[row] = runs
    return found


def _search_scores(plan: Plan) -> dict[str, dict[float, float]]:
    scores: dict[str, dict[float, float]] = {}
    for name, run in plan.searches():
        path = plan.results / f"{name}.json"
        if path.is_file():
            metrics = json.loads(path.read_text(encoding="utf-8"))
            scores.setdefault(run.row, {})[run.rate] = metrics["validation"]["mean_f1"]
    return scores


def _search_table(plan: Plan) -> str:
    search = plan.search
    lines = [
        f"Learning rates, chosen on validation (mean F1 after {search.steps} steps on {search.fraction:.0%} of the "
        "data, one seed; bold is the chosen one, the lowest within a point of the best):",
        "",
        "| method | tried |",
        "|---|---|",
    ]
    for method, tried in _search_scores(plan).items():
        best = _chosen(tried)
        cells = (f"{rate:g}: {100 * score:.1f}" for rate, score in tried.items())
        lines.append(
            f"| {method} | "
            + " · ".join(f"**{cell}**" if rate == best else cell for rate, cell in zip(tried, cells, strict=True))
            + " |"
        )
    return "\n".join(lines)


def _stage_table(plan: Plan, stage: Stage) -> str:
    """Test F1 of every task and row; of HyperLoader's mean, how far it is ahead of each row's."""
    runs = results(plan, stage)
    tasks = list(next(iter(runs.values()))[0]["test"]["tasks"])
    columns = [*(task.replace("_", " ") for task in tasks), "mean", "seeds", "trained", f"{_OURS} is ahead by"]
    batch = stage.training.get("batch_size", plan.recipe.options.batch_size)
    lines = [
        f"**{stage.title}** ({stage.steps:,} steps of {batch} sentences; test micro-F1):",
        "",
        f"| method | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    ahead = _ahead(plan, stage)
    for method, found in runs.items():
        by_task = [statistics.mean(100 * run["test"]["tasks"][task]["f1"] for run in found) for task in tasks]
        cells = [f"{score:.1f}" for score in by_task]
        cells += [_mean(found), str(len(found)), f"{found[0]['trainable_parameters'] / 1e6:.2f} M"]
        cells.append(ahead.get(method, ""))
        lines.append(f"| {method} | {' | '.join(cells)} |")
    charts_of = (("", "F1 by task and method"), ("-curves", "F1 over steps"))
    links = [
        (text, document.link(document.RESULTS, plan.results / f"{stage.name}{end}.png")) for end, text in charts_of
    ]
    lines += ["", " ".join(f"![{text}]({link})" for text, link in links)]
    return "\n".join(lines)


def _ahead(plan: Plan, stage: Stage) -> dict[str, str]:
    """Row -> points of mean F1 with the 95 % interval of a paired bootstrap over the test sentences."""
    counts = {row: found for row in stage.rows if (found := _counts(plan, stage, row))}
    if _OURS not in counts:
        return {}
    return {
        row: f"{100 * found.mean:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"
        for row, found in compare_all(counts, _OURS, _RESAMPLES).items()
    }


def _counts(plan: Plan, stage: Stage, row: str) -> list[Counts]:
    paths = [plan.results / f"{stage.name}-{row}-{seed}.counts.npz" for seed in stage.seeds]
    return [load_counts(path) for path in paths if path.is_file()]


def _step_table(plan: Plan) -> str:
    """Time and memory of a step; empty where they were not measured."""
    path = plan.results / "step-times.json"
    if not path.is_file():
        return ""
    step = json.loads(path.read_text(encoding="utf-8"))
    lines = ["**A training step** (32 sentences):", "", "| method | s / step | memory |", "|---|---:|---:|"]
    for row in (row for row in plan.rows if row in step["seconds"]):
        seconds, memory = step["seconds"][row]["median"], step["peak_memory_bytes"][row] / 2**20
        lines.append(f"| {row} | {seconds:.3f} | {memory:.0f} MiB |")
    return "\n".join(lines)


def _ablation_table(plan: Plan, stage: Stage) -> str:
    """Mean validation F1 of every row, and how far that is from the first row's with the same seeds."""
    runs = results(plan, stage)
    first = runs[stage.rows[0]]
    lines = [
        f"**{stage.title}** ({stage.steps:,} steps, {stage.fraction:.0%} of the data, {len(stage.seeds)} seeds; mean "
        "validation micro-F1):",
        "",
        f"| row | mean | against {stage.rows[0]} | trained |",
        "|---|---:|---:|---:|",
    ]
    for row, found in runs.items():
        pairs = zip(found, first, strict=False)
        gains = [100 * (one["validation"]["mean_f1"] - other["validation"]["mean_f1"]) for one, other in pairs]
        each = ", ".join(f"{gain:+.1f}" for gain in gains)
        trained = f"{found[0]['trainable_parameters'] / 1e6:.2f} M"
        lines.append(f"| {row} | {_mean(found, 'validation')} | {statistics.mean(gains):+.1f} ({each}) | {trained} |")
    return "\n".join(lines)


def _means_table(plan: Plan, stages: list[Stage]) -> str:
    """Mean test F1 of every method, a column a stage."""
    found = {stage.title: results(plan, stage) for stage in stages}
    methods = [row for row in plan.rows if any(row in runs for runs in found.values())]
    lines = [f"| method | trained | {' | '.join(found)} |", f"|---|---:|{'---:|' * len(found)}"]
    for method in methods:
        runs = next(runs[method] for runs in found.values() if method in runs)
        trained = f"{runs[0]['trainable_parameters'] / 1e6:.2f} M"
        cells = [_mean(runs[method]) if method in runs else "" for runs in found.values()]
        lines.append(f"| {method} | {trained} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(runs: list[dict], split: str = "test") -> str:
    return document.mean_and_range([100 * run[split]["mean_f1"] for run in runs])
