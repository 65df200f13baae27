"""A run that is killed and resumed ends as one that is not, to the bit; in several processes torchrun resumes it.

    python examples/resumed_run.py [BACKBONE] [FOLDER] [PROCESSES]

BACKBONE is a BERT-like encoder with a fast tokenizer. What it does here is done by
`hyperloader train run.yaml --resume`, and by `torchrun --nproc-per-node 2 --max-restarts 3 -m hyperloader.cli train
run.yaml` by itself.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

NAME = sys.argv[1] if len(sys.argv) > 1 else "google-bert/bert-base-uncased"
FOLDER = Path(sys.argv[2] if len(sys.argv) > 2 else "resumed-run")
PROCESSES = int(sys.argv[3]) if len(sys.argv) > 3 else 1
DATA = {
    "music": ("play my favourites", ["O", "O", "B-list"]),
    "flights": ("is there a flight from boston", ["O", "O", "O", "O", "O", "B-city"]),
}

for task, (text, tags) in DATA.items():
    (FOLDER / task).mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 16), ("validation", 8), ("test", 8)):
        rows = [{"tokens": text.split()[n % 3 :], "tags": tags[n % 3 :]} for n in range(count)]
        (FOLDER / task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
backbone = Path(NAME).resolve() if Path(NAME).is_dir() else NAME
run = {
    "backbone": str(backbone),
    "tasks": [{"name": task, "path": task} for task in DATA],
    "output": "run",
    "training": {"steps": 120, "eval_steps": 60, "save_steps": 20, "batch_size": 4, "report_to": "none"},
}
(FOLDER / "run.yaml").write_text(yaml.safe_dump(run))


def start(output: Path, *options: str) -> subprocess.Popen:
    """`hyperloader train`, by torchrun in several processes."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
    command = [sys.executable, *(torchrun if PROCESSES > 1 else []), "-m", "hyperloader.cli"]
    return subprocess.Popen([*command, "train", str(FOLDER / "run.yaml"), "--output", str(output), *options])


through, stopped = FOLDER / "through", FOLDER / "stopped"
for folder in (through, stopped):  # of an earlier call
    shutil.rmtree(folder, ignore_errors=True)
assert start(through).wait() == 0

killed = start(stopped)
while not (stopped / "checkpoint-20").is_dir():
    assert killed.poll() is None
    time.sleep(0.01)
killed.terminate()  # it says how to resume
killed.wait()
assert start(stopped, "--resume").wait() == 0

weights = [(folder / "best" / "model.safetensors").read_bytes() for folder in (through, stopped)]
print(f"ended with status {killed.returncode}, resumed; the same weights to the bit: {weights[0] == weights[1]}")
