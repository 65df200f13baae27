"""Two of the grammars' tasks and a small random BERT that knows their words, for tests that train a run."""

import json
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from hyperloader.data import grammar

TASKS = ("music", "calendar")
TRAINING = {"steps": 4, "batch_size": 8, "eval_steps": 2, "save_steps": 2, "log_steps": 1, "report_to": "none"}


def write(folder: Path) -> dict:
    """Write data and backbone to ``folder``; returns what a run's YAML file in it holds, but for ``output``."""
    grammar.write(folder / "data", train=40, validation=10, test=10)
    entries = "".join(f"  - {{name: {task}, path: {task}}}\n" for task in TASKS)
    (folder / "data" / "tasks.yaml").write_text(f"tasks:\n{entries}")
    words = {
        word
        for file in sorted((folder / "data").rglob("*.jsonl"))
        for line in file.read_text().splitlines()
        for word in json.loads(line)["tokens"]
    }
    backbone = folder / "bert"
    backbone.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words)]
    (backbone / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(str(backbone / "vocab.txt")).save_pretrained(backbone)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(backbone)
    model, tasks = {"reduction_factor": 4}, "data/tasks.yaml"
    return {"backbone": str(backbone), "tasks": tasks, "model": model, "training": dict(TRAINING)}


def with_random_heads(folder: Path) -> Path:
    """The finished run in ``folder``, whose heads are random from now on, so that they find spans and labels."""
    from hyperloader.training.saved_run import load_run

    model = load_run(folder).model
    torch.manual_seed(3)
    for head in model.heads.heads:
        torch.nn.init.normal_(head.weight, 0, 0.5)
        torch.nn.init.zeros_(head.bias)
    model.save_pretrained(folder / "best")
    return folder
