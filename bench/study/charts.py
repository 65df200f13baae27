"""Charts of a study: scores by task, and scores over steps."""

from bench.study.plan import Plan, Stage

_COLOURS = ("#999999", "#0072B2", "#CC79A7", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#000000")


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def scores(plan: Plan, stage: Stage, runs: dict[str, list[dict]]) -> None:
    """Grouped bars: test F1 of every task and their mean, one colour a row; whiskers span the seeds."""
    pyplot = _pyplot()
    tasks = list(next(iter(runs.values()))[0]["test"]["tasks"])
    figure, axes = pyplot.subplots(figsize=(10, 4.2), layout="constrained")
    width = 0.8 / len(runs)
    for number, (row, found) in enumerate(runs.items()):
        columns = [[100 * run["test"]["tasks"][task]["f1"] for run in found] for task in tasks]
        columns.append([100 * run["test"]["mean_f1"] for run in found])
        heights = [sum(column) / len(column) for column in columns]
        reach = [
            [height - min(column) for height, column in zip(heights, columns, strict=True)],
            [max(column) - height for height, column in zip(heights, columns, strict=True)],
        ]
        places = [place + (number - (len(runs) - 1) / 2) * width for place in range(len(columns))]
        axes.bar(places, heights, width, yerr=reach, label=row, color=_COLOURS[number], error_kw={"linewidth": 0.8})
        axes.text(
            places[-1], heights[-1] + 1.5, f"{heights[-1]:.1f}", ha="center", va="bottom", rotation=90, fontsize=7
        )
    axes.set_xticks(range(len(tasks) + 1), [*(task.replace("_", "\n") for task in tasks), "mean"])
    axes.set_ylabel("test micro-F1 (%)")
    axes.set_ylim(0, 105)
    axes.set_title(f"{stage.title}: {stage.steps:,} steps")
    axes.legend(ncols=len(runs), loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(plan.results / f"{stage.name}.png", dpi=140)
    pyplot.close(figure)


def curves(plan: Plan, stage: Stage, runs: dict[str, list[dict]]) -> None:
    """Mean validation F1 over steps, a line a row, the mean over seeds."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for number, (row, found) in enumerate(runs.items()):
        points = list(zip(*(run["learning_curve"] for run in found), strict=True))
        steps = [point[0]["step"] for point in points]
        means = [100 * sum(one["mean_f1"] for one in point) / len(point) for point in points]
        axes.plot(steps, means, marker="o", markersize=3, label=row, color=_COLOURS[number])
    best = max(100 * one["mean_f1"] for found in runs.values() for run in found for one in run["learning_curve"])
    axes.set_ylim(best - 20, best + 1)
    axes.set_xlabel("step")
    axes.set_ylabel("mean validation micro-F1 (%)")
    axes.set_title(stage.title)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(plan.results / f"{stage.name}-curves.png", dpi=140)
    pyplot.close(figure)
