"""The table, made from the JSON files alone."""

import json
import statistics

from bench import document
from bench.described.plan import METHODS, RATES, Learning, Plan
from bench.newtask.report import tried_rates
from hyperloader.cli.inspect import NUMBERS
from hyperloader.training.headlines import headline, mean_of

COMMON = "most-common.json"


def read(plan: Plan, run: Learning) -> dict | None:
    """The result of ``run``, if it is there."""
    path = plan.results / f"{run.name}.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return found if found is not None and found["run"] == vars(run) else None  # a plan that has changed begins anew


def chosen_rates(plan: Plan) -> dict[str, float]:
    """Of each of ``RATES`` the learning rate with the best mean score in the search; of equals the lowest."""
    tried = _tried(plan)
    return {name: max(sorted(rates), key=rates.get) for name, rates in tried.items()}


def _tried(plan: Plan) -> dict[str, dict[float, float]]:
    """The mean over the held-out tasks, where all of them are there."""
    found: dict[str, dict[float, list[float]]] = {}
    for run in plan.searches():
        if (result := read(plan, run)) is not None:
            found.setdefault(RATES[run.method], {}).setdefault(run.rate, []).append(result["score"])
    return {
        name: {rate: statistics.mean(some) for rate, some in rates.items() if len(some) == len(plan.held_out)}
        for name, rates in found.items()
    }


def write(plan: Plan) -> None:
    """Put the table into docs/results.md."""
    results: dict[tuple[str, int], dict[str, list[dict]]] = {}
    for run in plan.learnings(chosen_rates(plan)):
        if (result := read(plan, run)) is not None:
            results.setdefault((run.task, run.examples), {}).setdefault(run.method, []).append(result)
    if not results:
        raise ValueError(f"{plan.results}: holds no results yet; run python -m bench.described without --report")
    document.put(document.RESULTS, "described", render(plan, results))


def render(plan: Plan, results: dict[tuple[str, int], dict[str, list[dict]]]) -> str:
    """Markdown: scores by task, number of examples and what is begun at, and what was run."""
    counts = [0, *plan.examples]
    rows = [
        f"| {task} | {count or 'none'} | {' | '.join(_cell(results[task, count].get(one, [])) for one in METHODS)} |"
        for task in plan.held_out
        for count in counts
        if (task, count) in results
    ]
    first = [results[task, plan.examples[0]] for task in plan.held_out if (task, plan.examples[0]) in results]
    trained = [_range([one[method][0]["trained"] for one in first if method in one]) for method in METHODS]
    return "\n".join(
        [
            f"| task | examples | {' | '.join(METHODS.values())} |",
            f"|---|---:|{'---:|' * len(METHODS)}",
            *rows,
            f"| trained numbers | | {' | '.join(trained)} |",
            "",
            f"{_about(plan)} {_common(plan)}{_inside(plan)}",
        ]
    )


def _about(plan: Plan) -> str:
    bases = [json.loads((plan.results / f"base-{seed}.json").read_text(encoding="utf-8")) for seed in plan.seeds]
    own = " and ".join(f"{100 * mean_of(base['validation']):.1f}" for base in bases)
    seconds = statistics.mean(base["seconds_per_step"] for base in bases)
    rates = tried_rates(_tried(plan), chosen_rates(plan), {"embedding": "row and head", "lora": "fresh LoRA"})
    return (
        f"Test scores of {plan.sentences} sentences, F1 of spans or accuracy, mean and range over {len(plan.seeds)} "
        f"models and choices of examples; {plan.steps} steps of at most {plan.batch_size} sentences. Each model was "
        f"trained on the other {len(bases[0]['validation']['tasks'])} tasks ({plan.base.steps:,} steps on "
        f"{plan.base.fraction:.0%} of their data, {seconds:.2f} s a step; mean score on their "
        f"validation sets {own}). Learning rates were chosen with {plan.search.examples} examples of another choice by "
        f"the mean score on {plan.search.sentences} validation sentences a task: {rates}."
    )


def _common(plan: Plan) -> str:
    common = json.loads((plan.results / COMMON).read_text(encoding="utf-8"))
    shares = " and ".join(f"{100 * share:.1f} on {task}" for task, share in common.items())
    return f"Always the most frequent label would score {shares}. " if common else ""


def _inside(plan: Plan) -> str:
    control = json.loads((plan.results / NUMBERS).read_text(encoding="utf-8"))["control"]
    right, wrong = control["right"], control["shuffled"]
    tasks = (
        f"{task} {100 * scores[headline(scores)]:.1f} to {100 * wrong['tasks'][task][headline(scores)]:.1f}"
        for task, scores in right["tasks"].items()
    )
    return (
        f"`hyperloader inspect` of the first model, {control['split']}, at most {control['limit']} sentences a task: "
        f"with the descriptions shuffled, rows and heads as they are, the mean goes from {100 * mean_of(right):.1f} to "
        f"{100 * mean_of(wrong):.1f} ({', '.join(tasks)})."
    )


def _cell(runs: list[dict]) -> str:
    return document.mean_and_range([100 * one["score"] for one in runs])


def _range(numbers: list[int]) -> str:
    if not numbers:
        return ""
    return f"{min(numbers):,}" if len(set(numbers)) == 1 else f"{min(numbers):,} to {max(numbers):,}"
