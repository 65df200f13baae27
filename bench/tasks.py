"""python -m bench.tasks [--tasks 64 10000] [--report]

Times what is done with a small BERT of so many tasks with three labels each: seconds of one processor, the median of
some rounds. A batch is 64 sentences of 64 tasks. Writes tasks.json and the table in docs/scaling.md.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from tempfile import TemporaryDirectory

import torch
from transformers import BertConfig, BertModel

from bench import command, document, machine, results
from hyperloader import HyperLoaderConfig, HyperLoaderModel
from hyperloader.checkpoints.atomic import write_text
from hyperloader.optim import RowAdamW

FILE = results.ROOT / "tasks" / "tasks.json"
DOCUMENT = document.ROOT / "docs" / "scaling.md"
LABELS = ["O", "B-x", "I-x"]
SENTENCES, TOKENS, ADDED = 64, 16, 100
NAMES = {
    "build": "a new model",
    "answer": "a batch without gradients",
    "forward": "a batch in training: forward",
    "backward": "backward",
    "update": "AdamW with `fused=True`",
    "plain": "AdamW without",
    "save": "`save_pretrained`",
    "load": "`from_pretrained`",
    "add": f"`add_task`, {ADDED} times",
    "sparse_build": "with `sparse_gradients`: a new model",
    "sparse_forward": "a batch in training: forward",
    "sparse_backward": "backward",
    "sparse_update": "`RowAdamW` with `fused=True`",
    "sparse_save": "`save_pretrained`",
    "sparse_load": "`from_pretrained`",
}


def main(words: list[str] | None = None) -> None:
    """Measure, or make the table of what was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.tasks", description=__doc__)
    parser.add_argument("--tasks", type=int, nargs="+", default=[SENTENCES, 10_000], help=f"at least {SENTENCES} each")
    parser.add_argument("--rounds", type=int, default=5)

    def check(given: argparse.Namespace) -> None:
        if min(given.tasks) < SENTENCES:
            parser.error(f"--tasks must be at least {SENTENCES}, got {min(given.tasks)}")

    given = command.parsed(parser, words, "tasks", FILE, DOCUMENT, check)
    if not given.report:
        found = {"versions": machine.versions(), "hardware": machine.hardware(torch.device("cpu"))}
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            found["seconds"] = {count: measure(count, given.rounds) for count in given.tasks}
        finally:
            torch.set_num_threads(threads)
        write_text(given.file, json.dumps(found, indent=1) + "\n")
    document.put(given.document, "tasks", render(json.loads(given.file.read_text(encoding="utf-8"))))


def measure(count: int, rounds: int) -> dict[str, float]:
    """Seconds of everything in ``NAMES`` with ``count`` tasks."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    backbone = BertModel(BertConfig(vocab_size=100, **sizes))
    tasks = [f"task {number}" for number in range(count)]
    config = HyperLoaderConfig(tasks=tasks, labels=dict.fromkeys(tasks, LABELS), reduction_factor=4)
    taken: dict[str, list[float]] = {name: [] for name in NAMES}

    def timed(name: str, call: Callable) -> object:
        began = time.process_time()
        result = call()
        taken[name].append(time.process_time() - began)
        return result

    ids = torch.randint(0, 100, (SENTENCES, TOKENS))
    batch = {"input_ids": ids, "task_ids": torch.arange(SENTENCES) * (count // SENTENCES)}
    labels = torch.randint(0, len(LABELS), ids.shape)
    with TemporaryDirectory() as folder:
        for _ in range(rounds):
            model = timed("build", lambda: HyperLoaderModel(backbone, config))
            timed("save", lambda model=model: model.save_pretrained(folder))
            model.detach()
            model = timed("load", lambda: HyperLoaderModel.from_pretrained(folder, backbone)).train()
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            optimizer, plain = torch.optim.AdamW(trained, fused=True), torch.optim.AdamW(trained)
            for _ in range(4):  # the first one makes the optimizers' state
                loss = timed("forward", lambda model=model: model(**batch, labels=labels).loss)
                timed("backward", loss.backward)
                timed("update", optimizer.step)
                timed("plain", plain.step)
                optimizer.zero_grad()
            with torch.no_grad():
                model.eval()(**batch)  # generates the tasks' weights
                timed("answer", lambda model=model: model(**batch))
            timed("add", lambda model=model: [model.add_task(f"new {one}", labels=LABELS) for one in range(ADDED)])
            model.detach()
            rows = dataclasses.replace(config, sparse_gradients=True)
            model = timed("sparse_build", lambda rows=rows: HyperLoaderModel(backbone, rows))
            timed("sparse_save", lambda model=model: model.save_pretrained(folder))
            model.detach()
            model = timed("sparse_load", lambda: HyperLoaderModel.from_pretrained(folder, backbone)).train()
            optimizer = RowAdamW([one for one in model.parameters() if one.requires_grad], fused=True)
            for _ in range(4):
                loss = timed("sparse_forward", lambda model=model: model(**batch, labels=labels).loss)
                timed("sparse_backward", loss.backward)
                timed("sparse_update", optimizer.step)
                optimizer.zero_grad()
            model.detach()
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def render(found: dict) -> str:
    """Markdown: a line for everything measured, a column for each number of tasks."""
    counts = list(found["seconds"])
    rows = [f"| {name} | {' | '.join(_shown(found['seconds'][count][key]) for count in counts)} |"
            for key, name in NAMES.items() if all(key in one for one in found["seconds"].values())]  # fmt: skip
    return "\n".join(
        [
            f"| milliseconds with | {' | '.join(f'{int(count):,} tasks' for count in counts)} |",
            f"|---|{'---:|' * len(counts)}",
            *rows,
            "",
            f"Of one processor ({found['hardware']['device']}, torch {found['versions']['torch']}): BERT with 2 layers "
            f"of 64, {len(LABELS)} labels a task, batches of {SENTENCES} sentences of {SENTENCES} tasks.",
        ]
    )


def _shown(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f}" if seconds < 0.1 else f"{1e3 * seconds:,.0f}"


if __name__ == "__main__":
    sys.exit(command.run(main))
