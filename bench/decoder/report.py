"""The table, made from the JSON files alone."""

import json
import statistics
from pathlib import Path

from bench import document, results
from hyperloader.training.headlines import HEADLINES, headline

RATES, STEPS = "rates.json", "steps.json"
ROWS = {"hyperloader": "HyperLoader", "lora": "one LoRA for all", "lora-": "one LoRA a task"}


def write(folder: Path) -> None:
    """Put the table into docs/results.md."""
    document.put(document.RESULTS, "decoder", render(folder))


def chosen_rates(folder: Path) -> dict[str, float]:
    """Of each method that was tried at several learning rates the one with the lowest loss."""
    path = folder / RATES
    tried = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {method: float(min(losses, key=losses.get)) for method, losses in tried.items()}


def render(folder: Path) -> str:
    """Markdown: trained numbers, a step, memory, and the score of each task by method."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    timed, tried = found.pop("steps", None), found.pop("rates", None)
    if "hyperloader" not in found:
        raise results.UsageError(f"{folder}: must hold hyperloader.json; run python -m bench.decoder without --report")
    tasks = found["hyperloader"]["test"]["tasks"]
    lines = [
        f"| | trained numbers | a step | memory | {' | '.join(tasks)} | mean |",
        f"|---|---:|---:|---:|{'---:|' * (len(tasks) + 1)}",
    ]
    for name, words in ROWS.items():
        some = [one for key, one in found.items() if key == name or (name == "lora-" and key.startswith(name))]
        scores = {task: one for run in some for task, one in run["test"]["tasks"].items()}
        if set(scores) != set(tasks):
            continue
        values = [scores[task][headline(scores[task])] for task in tasks]
        trained = sum(run["trainable_parameters"] for run in some)
        cells = [f"{100 * value:.1f}" for value in (*values, statistics.mean(values))]
        lines.append(f"| {words} | {trained:,} | {_step(timed, name)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _about(found["hyperloader"], len(tasks), timed, tried)])


def _step(timed: dict | None, name: str) -> str:
    measured = (timed or {"steps": {}})["steps"].get(name.rstrip("-"))
    if not measured:
        return "- | -"
    seconds = statistics.median(one["seconds"] for one in measured)
    memory = statistics.median(one["memory"] for one in measured)
    return f"{seconds:.2f} s | {memory / 2**30:.1f} GiB"


def _about(run: dict, tasks: int, timed: dict | None, tried: dict | None) -> str:
    scores, options = run["test"]["tasks"], run["asked"]["training"]
    sentences = max(one["sentences"] for one in scores.values())
    kinds = " and ".join(dict.fromkeys(HEADLINES[headline(one)] for one in scores.values()))
    text = (
        f"Test scores ({kinds}) of {sentences} sentences a task, one seed; {run['steps']} steps of "
        f"{options['batch_size']} sentences in all for each row: {run['steps'] // tasks} steps for a LoRA a task. "
        + (_tried(tried) if tried else f"Learning rate {options['learning_rate']:g} for all, chosen for none.")
    )
    if timed:
        rounds, device = len(next(iter(timed["steps"].values()))), timed["hardware"]["device"]
        text += (
            f" A step and the memory of its process: medians of {rounds} rounds, one thread each and both at once, "
            f"{device}; a step of a LoRA a task is one of one LoRA for all."
        )
    return text


def _tried(tried: dict[str, dict[str, float]]) -> str:
    parts = []
    for method, losses in tried.items():
        best = min(losses, key=losses.get)
        cells = " · ".join(
            f"**{rate}: {loss:.2f}**" if rate == best else f"{rate}: {loss:.2f}" for rate, loss in losses.items()
        )
        parts.append(f"{ROWS[method]} {cells}")
    return f"Learning rates by the mean loss of steps 31 to 60, on sentences not met before: {'; '.join(parts)}."
