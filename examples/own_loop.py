"""Two tagging tasks in one model and one batch, in a training loop of your own.

    python examples/own_loop.py [BACKBONE] [FOLDER]

BACKBONE is a BERT-like encoder with a fast tokenizer, FOLDER where the model goes.
"""

import sys

import torch
from transformers import AutoModel, AutoTokenizer

from hyperloader import HyperLoaderConfig, HyperLoaderModel

NAME = sys.argv[1] if len(sys.argv) > 1 else "google-bert/bert-base-uncased"
FOLDER = sys.argv[2] if len(sys.argv) > 2 else "two-tasks"
LABELS = {"flights": ["O", "B-city", "I-city"], "music": ["O", "B-artist", "I-artist", "B-playlist"]}
SENTENCES = [  # task, sentence, tags
    ("flights", "flights from new york to boston", "O O B-city I-city O B-city"),
    ("music", "add bowie to favourites", "O B-artist O B-playlist"),
    ("music", "play nina simone", "O B-artist I-artist"),
    ("flights", "is there a flight to denver", "O O O O O B-city"),
]

torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(NAME)
model = HyperLoaderModel(
    AutoModel.from_pretrained(NAME), HyperLoaderConfig(tasks=list(LABELS), labels=LABELS, init="scaled")
)
model.print_trainable_parameters()

batch = tokenizer(
    [words.split() for _, words, _ in SENTENCES], is_split_into_words=True, padding=True, return_tensors="pt"
)
task_ids = torch.tensor([list(LABELS).index(task) for task, _, _ in SENTENCES])
labels = torch.full(batch["input_ids"].shape, -100)  # what counts is the first token of every word
for row, (task, _, tags) in enumerate(SENTENCES):
    places = batch.word_ids(row)
    for place, word in enumerate(places):
        if word is not None and word != places[place - 1]:
            labels[row, place] = LABELS[task].index(tags.split()[word])

optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=5e-3)
model.train()
for step in range(31):
    loss = model(**batch, task_ids=task_ids, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 10 == 0:
        print(f"step {step}: loss {loss.item():.3f}")

model.eval().save_pretrained(FOLDER)  # what is trained, and a fingerprint of the backbone
again = HyperLoaderModel.from_pretrained(FOLDER, AutoModel.from_pretrained(NAME))
with torch.no_grad():
    found = again(**batch, task_ids=task_ids).logits.argmax(-1)
right = (found == labels)[labels != -100].float().mean()
print(f"right tags: {right:.0%}")
