"""Table and chart of a study, made from its JSON files alone."""

import json
import statistics

from bench import document
from bench.study.plan import Plan, Stage

MARK = "study"
ORDER = ("full", "hyperloader", "hyperformer++", "lora", "adapter")
_SAME = 0.01  # a difference in mean F1 that one short run cannot show
_COLOURS = {
    "full": "#999999", "hyperloader": "#0072B2", "hyperformer++": "#56B4E9", "lora": "#E69F00", "adapter": "#009E73",
}  # fmt: skip


def write(plan: Plan) -> None:
    """Put all tables into docs/results.md and the means into the README, and draw one chart per stage."""
    stages = [stage for stage in plan.stages if results(plan, stage)]  # a study may be reported before its end
    text = "\n\n".join([_search_table(plan), *(_stage_table(plan, stage) for stage in stages)])
    for stage in stages:
        draw(plan, stage)
    document.put(document.RESULTS, MARK, text)
    document.put(document.README, MARK, _means_table(plan, [stage for stage in stages if not stage.training]))


def chosen_rates(plan: Plan) -> dict[str, float]:
    """For every method the lowest learning rate within a point of the best mean validation F1 of the search.

    Scores of single short runs differ by about a point from seed to seed, and longer runs want lower rates.
    """
    return {method: _chosen(tried) for method, tried in _search_scores(plan).items()}


def _chosen(tried: dict[float, float]) -> float:
    best = max(tried.values())
    return min(rate for rate, score in tried.items() if score >= best - _SAME)


def results(plan: Plan, stage: Stage) -> dict[str, list[dict]]:
    """The finished runs of a stage, by method, one a seed."""
    found = {}
    for method in sorted(stage.methods, key=ORDER.index):
        paths = [plan.results / f"{stage.name}-{method}-{seed}.json" for seed in stage.seeds]
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
        if runs:
            found[method] = runs
    return found


def _search_scores(plan: Plan) -> dict[str, dict[float, float]]:
    scores: dict[str, dict[float, float]] = {}
    for name, method, rate, _ in plan.searches():
        path = plan.results / f"{name}.json"
        if path.is_file():
            metrics = json.loads(path.read_text(encoding="utf-8"))
            scores.setdefault(method, {})[rate] = metrics["validation"]["mean_f1"]
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
    for method, tried in sorted(_search_scores(plan).items(), key=lambda item: ORDER.index(item[0])):
        best = _chosen(tried)
        cells = (f"{rate:g}: {100 * score:.1f}" for rate, score in tried.items())
        lines.append(
            f"| {method} | "
            + " · ".join(f"**{cell}**" if rate == best else cell for rate, cell in zip(tried, cells, strict=True))
            + " |"
        )
    return "\n".join(lines)


def _stage_table(plan: Plan, stage: Stage) -> str:
    runs = results(plan, stage)
    step = json.loads(path.read_text()) if (path := plan.results / "step-times.json").is_file() else None
    tasks = list(next(iter(runs.values()))[0]["test"]["tasks"])
    columns = [*(task.replace("_", " ") for task in tasks), "mean", "seeds", "trained", "s / step", "memory"]
    lines = [
        f"**{stage.title}** ({stage.steps:,} steps of {plan.recipe.options.batch_size} sentences; test micro-F1):",
        "",
        f"| method | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for method, found in runs.items():
        by_task = [statistics.mean(100 * run["test"]["tasks"][task]["f1"] for run in found) for task in tasks]
        cells = [f"{score:.1f}" for score in by_task]
        cells += [_mean(found), str(len(found)), f"{found[0]['trainable_parameters'] / 1e6:.2f} M"]
        if step and not stage.training:  # a step was measured with the recipe's own options
            cells += [
                f"{step['seconds'][method]['median']:.3f}",
                f"{step['peak_memory_bytes'][method] / 2**20:.0f} MiB",
            ]
        else:
            cells += ["", ""]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    chart = document.link(document.RESULTS, plan.results / f"{stage.name}.png")
    lines += ["", f"![F1 by task and method]({chart})"]
    return "\n".join(lines)


def _means_table(plan: Plan, stages: list[Stage]) -> str:
    """Mean test F1 of every method, a column a stage."""
    found = {stage.title: results(plan, stage) for stage in stages}
    methods = sorted({method for runs in found.values() for method in runs}, key=ORDER.index)
    lines = [f"| method | trained | {' | '.join(found)} |", f"|---|---:|{'---:|' * len(found)}"]
    for method in methods:
        runs = next(runs[method] for runs in found.values() if method in runs)
        trained = f"{runs[0]['trainable_parameters'] / 1e6:.2f} M"
        cells = [_mean(runs[method]) if method in runs else "" for runs in found.values()]
        lines.append(f"| {method} | {trained} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(runs: list[dict]) -> str:
    means = [100 * run["test"]["mean_f1"] for run in runs]
    span = f" ({min(means):.1f} to {max(means):.1f})" if len(means) > 1 else ""
    return f"**{statistics.mean(means):.1f}**{span}"


def draw(plan: Plan, stage: Stage) -> None:
    """Grouped bars: test F1 of every task and their mean, one colour a method; whiskers span the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = results(plan, stage)
    tasks = list(next(iter(runs.values()))[0]["test"]["tasks"])
    figure, axes = pyplot.subplots(figsize=(10, 4.2), layout="constrained")
    width = 0.8 / len(runs)
    for number, (method, found) in enumerate(runs.items()):
        columns = [[100 * run["test"]["tasks"][task]["f1"] for run in found] for task in tasks]
        columns.append([100 * run["test"]["mean_f1"] for run in found])
        heights = [statistics.mean(column) for column in columns]
        reach = [
            [height - min(column) for height, column in zip(heights, columns, strict=True)],
            [max(column) - height for height, column in zip(heights, columns, strict=True)],
        ]
        places = [place + (number - (len(runs) - 1) / 2) * width for place in range(len(columns))]
        axes.bar(places, heights, width, yerr=reach, label=method, color=_COLOURS[method], error_kw={"linewidth": 0.8})
        axes.text(
            places[-1], heights[-1] + 1.5, f"{heights[-1]:.1f}", ha="center", va="bottom", rotation=90, fontsize=7
        )
    axes.set_xticks(range(len(tasks) + 1), [*(task.replace("_", "\n") for task in tasks), "mean"])
    axes.set_ylabel("test micro-F1 (%)")
    axes.set_ylim(0, 105)
    axes.set_title(f"{stage.title}: {stage.steps:,} steps of {plan.recipe.options.batch_size} sentences")
    axes.legend(ncols=len(runs), loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(plan.results / f"{stage.name}.png", dpi=140)
    pyplot.close(figure)
