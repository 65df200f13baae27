"""A run compiled by torch.compile beside the same run without: how many graphs, what a step takes, the same loss.

    python examples/compiled_run.py [BACKBONE] [FOLDER]

BACKBONE is a BERT-like encoder with a fast tokenizer. In a run file it is one line: `training: {compile: true}`.
"""

import json
import sys
from pathlib import Path

from torch._dynamo.utils import counters

from hyperloader.training.run import train
from hyperloader.training.run_config import RunConfig

NAME = sys.argv[1] if len(sys.argv) > 1 else "google-bert/bert-base-uncased"
FOLDER = Path(sys.argv[2] if len(sys.argv) > 2 else "compiled-run")
DATA = {
    "music": ("play my favourites", ["O", "O", "B-list"]),
    "flights": ("is there a flight from boston", ["O", "O", "O", "O", "O", "B-city"]),
}

for task, (text, tags) in DATA.items():
    (FOLDER / task).mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 16), ("validation", 8), ("test", 8)):
        rows = [{"tokens": text.split()[n % 3 :], "tags": tags[n % 3 :]} for n in range(count)]  # of several lengths
        (FOLDER / task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

losses = {}
for compiled in (False, True):
    run = {
        "backbone": NAME,
        "tasks": [{"name": task, "path": str(FOLDER / task)} for task in DATA],
        "output": str(FOLDER / ("compiled" if compiled else "plain")),
        "training": {"steps": 12, "eval_steps": 6, "batch_size": 8, "report_to": "none", "compile": compiled},
    }
    metrics = train(RunConfig.from_dict(run), progress=False)
    losses[compiled] = metrics["learning_curve"][0]["train_loss"]
    once = f", once {metrics['seconds_compiling']:.0f} s of compiling" if compiled else ""
    print(f"{'compiled' if compiled else 'plain'}: {metrics['seconds_per_step']:.3f} s a step{once}")
print(f"graphs compiled: {counters['stats']['unique_graphs']}")
print(f"losses differ by {abs(losses[True] - losses[False]) / losses[False]:.0%}: dropout draws other numbers")
