"""python -m bench.int8 RUN_FOLDER [--limit 300] [--report]

What a run scores as an ONNX file in float32 and with int8 weights that have a factor a tensor or a factor a column, on
its test sets. Writes int8.json and the table in docs/serving.md.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from bench import command, document, machine, results
from hyperloader.checkpoints.atomic import write_text
from hyperloader.training.headlines import HEADLINES, headline, mean_of
from hyperloader.training.saved_run import load_run, scorer

FILE = results.ROOT / "int8" / "int8.json"
DOCUMENT = document.ROOT / "docs" / "serving.md"
FLOAT32, TENSOR, COLUMN = FORMS = ("float32", "int8, a factor a tensor", "int8, a factor a column")


def main(words: list[str] | None = None) -> None:
    """Measure, or make the table of what was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.int8", description=__doc__)
    parser.add_argument("run", type=Path, nargs="?", default=document.ROOT / "runs" / "serve-eight-tasks")
    parser.add_argument("--limit", type=int, default=300, help="test sentences of every task, at most")
    given = command.parsed(parser, words, "int8", FILE, DOCUMENT)
    if not given.report:
        write_text(given.file, json.dumps(measure(given.run, given.limit), indent=1) + "\n")
    document.put(given.document, "int8", render(json.loads(given.file.read_text(encoding="utf-8"))))


def measure(folder: Path, limit: int) -> dict:
    """Scores of every form and the size of its file."""
    from hyperloader.interop.onnx import OnnxModel, quantize_onnx, save_onnx

    run = load_run(folder)
    model = run.hyperloader
    if model is None:
        raise results.UsageError(f"{folder}: its method must be one that generates weights, got {run.config.method}")
    tasks = run.config.load_tasks()
    scores, sizes = {}, {}
    with TemporaryDirectory() as temporary:
        paths = {form: Path(temporary) / f"{number}.onnx" for number, form in enumerate(FORMS)}
        save_onnx(model.to("cpu"), paths[FLOAT32])
        for form in FORMS:
            if form != FLOAT32:
                quantize_onnx(paths[FLOAT32], paths[form], per_column=form == COLUMN)
            written = dataclasses.replace(run, model=OnnxModel(paths[form]))
            scores[form] = scorer(written, tasks, "test", limit)(written.model)
            sizes[form] = paths[form].stat().st_size
            print(form, mean_of(scores[form]), flush=True)
    return {
        "versions": {**machine.versions(), "onnxruntime": importlib.metadata.version("onnxruntime")},
        "hardware": machine.hardware(torch.device("cpu")),
        "limit": limit, "scores": scores, "bytes": sizes,
    }  # fmt: skip


def render(found: dict) -> str:
    """Markdown: a line for each task, in per cent."""
    of_form, rows = found["scores"], []
    for task, scores in of_form[FLOAT32]["tasks"].items():
        key = headline(scores)
        rows.append((f"{task}, {HEADLINES[key]}", [one["tasks"][task][key] for one in of_form.values()]))
    rows.append(("mean", [mean_of(one) for one in of_form.values()]))
    sizes = " | ".join(f"{found['bytes'][form] / 2**20:.0f} MiB" for form in of_form)
    hardware, versions = found["hardware"]["device"], found["versions"]
    return "\n".join(
        [
            f"| test, % | {' | '.join(of_form)} |",
            f"|---|{'---:|' * len(of_form)}",
            *(f"| {name} | {' | '.join(f'{100 * value:.1f}' for value in values)} |" for name, values in rows),
            f"| file | {sizes} |",
            "",
            f"At most {found['limit']:,} test sentences a task, one run, {hardware}, onnxruntime "
            f"{versions['onnxruntime']}; `python -m bench.int8 RUN_FOLDER`.",
        ]
    )


if __name__ == "__main__":
    sys.exit(command.run(main))
