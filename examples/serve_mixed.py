"""What serving needs: a mixed batch from the weight bank, and one task merged into a model of its own.

    python examples/serve_mixed.py [BACKBONE] [FOLDER]

FOLDER is the model of own_loop.py.
"""

import sys

import torch
from transformers import AutoModel, AutoTokenizer

from hyperloader import HyperLoaderModel, TaskModel

NAME = sys.argv[1] if len(sys.argv) > 1 else "google-bert/bert-base-uncased"
FOLDER = sys.argv[2] if len(sys.argv) > 2 else "two-tasks"

tokenizer = AutoTokenizer.from_pretrained(NAME)
model = HyperLoaderModel.from_pretrained(FOLDER, AutoModel.from_pretrained(NAME))
tasks, labels = model.hyperloader_config.tasks, model.hyperloader_config.labels

requests = [("flights", "from boston to denver"), ("music", "play nina simone"), ("flights", "to new york")]
batch = tokenizer([text for _, text in requests], padding=True, return_tensors="pt")
task_ids = torch.tensor([tasks.index(task) for task, _ in requests])
with torch.inference_mode():
    for _ in range(2):  # the second time the weights of both tasks come from the bank
        mixed = model(**batch, task_ids=task_ids).logits
for row, (task, text) in enumerate(requests):
    print(f"{task}: {text}:", [labels[task][index] for index in mixed[row].argmax(-1).tolist()])
print(model.bank.statistics())

model.merge("music").save_pretrained(f"{FOLDER}-music")  # a plain module with nothing left to generate
alone = TaskModel.from_pretrained(f"{FOLDER}-music")
with torch.inference_mode():
    merged = alone(**tokenizer(requests[1][1], return_tensors="pt")).logits
    own = model(**tokenizer(requests[1][1], return_tensors="pt"), task="music").logits
print(f"merged and unmerged differ by {(merged - own).abs().max():.1e}")
