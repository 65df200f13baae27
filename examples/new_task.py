"""A third task for the model of own_loop.py: 64 numbers and a head are trained, nothing else changes by a bit.

python examples/new_task.py [BACKBONE] [FOLDER]
"""

import sys

import torch
from transformers import AutoModel, AutoTokenizer

from hyperloader import HyperLoaderModel

NAME = sys.argv[1] if len(sys.argv) > 1 else "google-bert/bert-base-uncased"
FOLDER = sys.argv[2] if len(sys.argv) > 2 else "two-tasks"

torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(NAME)
model = HyperLoaderModel.from_pretrained(FOLDER, AutoModel.from_pretrained(NAME))
other = tokenizer("flights to new york", return_tensors="pt")
with torch.no_grad():
    before = model(**other, task="flights").logits

model.add_task("alarms", init="mean", labels=["O", "B-time"])
model.freeze_except_task_embedding("alarms")
batch = tokenizer(["wake me at seven"], return_tensors="pt")
labels = torch.full(batch["input_ids"].shape, 0)
labels[:, 0] = labels[:, -1] = -100
labels[:, -2] = 1

optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=5e-3)  # of the new numbers alone
model.train()
for _ in range(20):
    loss = model(**batch, task="alarms", labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()

model.eval()
with torch.no_grad():
    after = model(**other, task="flights").logits
print(f"loss {loss.item():.3f}; the other tasks are the same to the bit: {torch.equal(before, after)}")
model.save_pretrained(FOLDER)
