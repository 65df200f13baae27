"""Training with transformers' Trainer: a data set whose rows name their task, checkpoints that resume.

python examples/trainer.py [BACKBONE] [FOLDER]
"""

import sys

import torch
from transformers import AutoModel, AutoTokenizer, DataCollatorForTokenClassification, Trainer, TrainingArguments

from hyperloader import HyperLoaderConfig, HyperLoaderModel

NAME = sys.argv[1] if len(sys.argv) > 1 else "google-bert/bert-base-uncased"
FOLDER = sys.argv[2] if len(sys.argv) > 2 else "trained"
LABELS = {"numbers": ["O", "B-number"], "names": ["O", "B-name"]}
TEXTS = {"numbers": "i have two cats and seven dogs", "names": "anna met bob and carl"}

tokenizer = AutoTokenizer.from_pretrained(NAME)


def row(task: str) -> dict:
    """A sentence of ``task``: every third word is of interest."""
    encoded = tokenizer(TEXTS[task])
    labels = [int(place % 3 == 0) for place in range(len(encoded["input_ids"]))]
    return {**encoded, "labels": labels, "task_ids": list(LABELS).index(task)}


torch.manual_seed(0)
model = HyperLoaderModel(
    AutoModel.from_pretrained(NAME), HyperLoaderConfig(tasks=list(LABELS), labels=LABELS, init="scaled")
)
arguments = TrainingArguments(
    FOLDER, max_steps=8, per_device_train_batch_size=4, learning_rate=5e-3, save_steps=4, report_to=[], use_cpu=True
)
data = [row(task) for task in ("numbers", "names")] * 8
trainer = Trainer(model, arguments, train_dataset=data, data_collator=DataCollatorForTokenClassification(tokenizer))
trainer.train()
again = HyperLoaderModel.from_pretrained(f"{FOLDER}/checkpoint-8", AutoModel.from_pretrained(NAME))
print(", ".join(again.hyperloader_config.tasks), "after", trainer.state.global_step, "steps")
