"""Table and chart, made from the JSON files alone."""

import json
import statistics
from collections.abc import Mapping

from bench import document
from bench.newtask.plan import METHODS, Learning, Plan
from hyperloader.cli.inspect import LAYERS, NUMBERS, TASKS

COLOURS = {"embedding": "#0072B2", "head": "#999999", "adapter": "#009E73"}


def read(plan: Plan, run: Learning) -> dict | None:
    """The result of ``run``, if it is there."""
    path = plan.results / f"{run.name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def chosen_rates(plan: Plan) -> dict[str, float]:
    """For every method the learning rate with the best F1 in the search; of equals the lowest."""
    tried = _tried(plan)
    return {method: max(sorted(rates), key=rates.get) for method, rates in tried.items()}


def _tried(plan: Plan) -> dict[str, dict[float, float]]:
    tried: dict[str, dict[float, float]] = {}
    for run in plan.searches():
        if (result := read(plan, run)) is not None:
            tried.setdefault(run.method, {})[run.rate] = result["scores"]["f1"]
    return tried


def write(plan: Plan) -> None:
    """Draw the chart and put the tables into docs/results.md."""
    results: dict[int, dict[str, list[dict]]] = {}
    for run in plan.learnings(chosen_rates(plan)):
        if (result := read(plan, run)) is not None:
            results.setdefault(run.examples, {}).setdefault(run.method, []).append(result)
    if not results:
        raise ValueError(f"{plan.results}: holds no results yet; run python -m bench.newtask without --report")
    learned, inside = render(plan, results), render_inside(plan)
    draw(plan, results)
    document.put(document.RESULTS, "newtask", learned)
    document.put(document.RESULTS, "inspect", inside)


def render_inside(plan: Plan) -> str:
    """Markdown: what ``hyperloader inspect`` found in the base."""
    folder = plan.results / "inspect"
    control = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))["control"]
    images = " ".join(f"![{name}]({document.link(document.RESULTS, folder / name)})" for name in (TASKS, LAYERS))
    if control is None:
        return images
    own, others = control["right"], control["shuffled"]
    rows = []
    for what, found in (("its own", own), ("the next task's", others)):
        cells = [f"{100 * found['tasks'][task]['f1']:.1f}" for task in control["others"]]
        rows.append(f"| {what} | {' | '.join(cells)} | **{100 * found['mean_f1']:.1f}** |")
    return "\n".join(
        [
            f"| weights | {' | '.join(task.replace('_', ' ') for task in control['others'])} | mean |",
            f"|---|{'---:|' * (len(control['others']) + 1)}",
            *rows,
            "",
            f"Micro-F1 on {control['split']}, at most {control['limit']} sentences a task: with the weights generated "
            "for the task's own name, and with those for the next one's, under the task's own head: "
            f"{100 * (others['mean_f1'] - own['mean_f1']):+.1f} points.",
            "",
            images,
        ]
    )


def render(plan: Plan, results: dict[int, dict[str, list[dict]]]) -> str:
    """Markdown: F1 by number of examples and method, and what was run."""
    base = json.loads((plan.results / "base.json").read_text(encoding="utf-8"))
    methods = [method for method in METHODS if any(method in found for found in results.values())]
    kept = [one["others_unchanged"] for found in results.values() for runs in found.values() for one in runs]
    kept = [one for one in kept if one is not None]
    first = next(iter(results.values()))
    trained = (f"{first[method][0]['trained']:,}" if method in first else "" for method in methods)
    chart = document.link(document.RESULTS, plan.results / "newtask.png")
    rates = tried_rates(_tried(plan), chosen_rates(plan), METHODS)
    lines = [
        f"| examples of {plan.held_out} | {' | '.join(METHODS[method] for method in methods)} |",
        f"|---:|{'---:|' * len(methods)}",
        *(
            f"| {count} | {' | '.join(_cell(found.get(method, [])) for method in methods)} |"
            for count, found in results.items()
        ),
        f"| trained numbers | {' | '.join(trained)} |",
        "",
        f"Test micro-F1, mean and range over {len(plan.seeds)} choices of the examples; {plan.steps} steps of at most "
        f"{plan.batch_size} sentences for every method. The model was trained on the other {len(base['tasks'])} tasks "
        f"({base['steps']:,} steps on {plan.base.fraction:.0%} of their data, mean validation F1 "
        f"{100 * base['validation_f1']:.1f}). The logits of those tasks had the same bits afterwards in {sum(kept)} of "
        f"{len(kept)} runs. Learning rates were chosen with {plan.search.examples} examples of another choice, by F1 "
        f"on {plan.search.sentences} validation sentences: {rates}.",
        "",
        f"![F1 over the number of examples]({chart})",
    ]
    return "\n".join(lines)


def _cell(runs: list[dict]) -> str:
    return document.mean_and_range([100 * one["scores"]["f1"] for one in runs])


def tried_rates(tried: Mapping[str, Mapping[float, float]], chosen: Mapping[str, float], names: Mapping) -> str:
    """The score of each rate that was tried, by what it is for, with the chosen ones in bold."""
    parts = []
    for what, rates in tried.items():
        cells = (f"{rate:g}: {100 * score:.1f}" for rate, score in rates.items())
        bold = (f"**{cell}**" if rate == chosen[what] else cell for rate, cell in zip(rates, cells, strict=True))
        parts.append(f"{names[what]} {' · '.join(bold)}")
    return "; ".join(parts)


def draw(plan: Plan, results: dict[int, dict[str, list[dict]]]) -> None:
    """F1 over the number of examples, one line a method; whiskers span the choices of examples."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for method, name in METHODS.items():
        counts = [count for count in results if method in results[count]]
        scores = [[100 * one["scores"]["f1"] for one in results[count][method]] for count in counts]
        means = [statistics.mean(some) for some in scores]
        reach = [
            [mean - min(some) for mean, some in zip(means, scores, strict=True)],
            [max(some) - mean for mean, some in zip(means, scores, strict=True)],
        ]
        axes.errorbar(counts, means, yerr=reach, label=name, color=COLOURS[method], marker="o", capsize=3)
    axes.set_xscale("log")
    axes.set_xticks(list(results), [str(count) for count in results])
    axes.minorticks_off()
    axes.set_xlabel(f"examples of {plan.held_out}")
    axes.set_ylabel("test micro-F1 (%)")
    axes.set_ylim(bottom=0)
    axes.set_title(f"A new task for a trained model: {plan.held_out}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(plan.results / "newtask.png", dpi=140)
    pyplot.close(figure)
