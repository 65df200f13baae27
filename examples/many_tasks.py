"""A thousand taggers in one model, whose training step costs what the tasks of its batch cost.

    python examples/many_tasks.py [BACKBONE] [FOLDER]

BACKBONE is a BERT-like encoder with a fast tokenizer, FOLDER where the model goes.
"""

import sys

import torch
from transformers import AutoModel, AutoTokenizer

from hyperloader import HyperLoaderConfig, HyperLoaderModel
from hyperloader.optim import RowAdamW, clip_grad_norm_

NAME = sys.argv[1] if len(sys.argv) > 1 else "google-bert/bert-base-uncased"
FOLDER = sys.argv[2] if len(sys.argv) > 2 else "thousand-tasks"
TASKS = [f"customer {number}" for number in range(1000)]
LABELS = ["O", "B-name", "I-name"]
SENTENCE, TAGS = "flights from new york to boston", [0, 0, 1, 2, 0, 1]

torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(NAME)
config = HyperLoaderConfig(tasks=TASKS, labels=dict.fromkeys(TASKS, LABELS), init="scaled", sparse_gradients=True)
model = HyperLoaderModel(AutoModel.from_pretrained(NAME), config).train()
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = RowAdamW(trained, lr=5e-3)  # PyTorch's AdamW takes no sparse gradients

task_ids = torch.tensor([3, 141, 592, 653])
batch = tokenizer([SENTENCE.split()] * len(task_ids), is_split_into_words=True, return_tensors="pt")
labels = torch.full(batch["input_ids"].shape, -100)
for place, word in enumerate(batch.word_ids(0)):
    if word is not None and word != batch.word_ids(0)[place - 1]:
        labels[:, place] = TAGS[word]

before = model.state_dict()["heads.heads.7.weight"].clone()
for step in range(21):
    loss = model(**batch, task_ids=task_ids, labels=labels).loss
    loss.backward()
    clip_grad_norm_(trained, 1.0)
    rows = model.task_embedding.weight.grad._nnz()
    optimizer.step()
    optimizer.zero_grad()
    if step % 10 == 0:
        print(f"step {step}: loss {loss.item():.3f}, gradients of {rows} of {len(TASKS):,} tasks")

same = torch.equal(before, model.state_dict()["heads.heads.7.weight"])
print(f"a task that no batch had is the same to the bit: {same}")
model.eval().save_pretrained(FOLDER)
