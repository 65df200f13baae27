"""A loop of your own in several processes, each with batches of other tasks; one of them saves.

    torchrun --nproc-per-node 2 examples/processes.py [BACKBONE] [FOLDER] [ddp|fsdp]

BACKBONE is a BERT-like encoder with a fast tokenizer. A run needs no script: put `torchrun --nproc-per-node 2 -m
hyperloader.cli` in the place of `hyperloader`, or `accelerate launch --config_file fsdp.yaml -m hyperloader.cli`.
"""

import os
import sys

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModel, AutoTokenizer

from hyperloader import HyperLoaderConfig, HyperLoaderModel

NAME = sys.argv[1] if len(sys.argv) > 1 else "google-bert/bert-base-uncased"
FOLDER = sys.argv[2] if len(sys.argv) > 2 else "two-tasks-together"
SHARDED = len(sys.argv) > 3 and sys.argv[3] == "fsdp"
LABELS = {"flights": ["O", "B-city", "I-city"], "music": ["O", "B-artist"]}
SENTENCES = {"flights": ("flights from new york to boston", "001201"), "music": ("add bowie to favourites", "0100")}

device = "cpu"
if torch.cuda.is_available():
    device = f"cuda:{os.environ['LOCAL_RANK']}"
    torch.cuda.set_device(device)
dist.init_process_group()  # NCCL on GPUs, gloo elsewhere
rank = dist.get_rank()

torch.manual_seed(0)  # every process begins at the same weights
tokenizer = AutoTokenizer.from_pretrained(NAME)
config = HyperLoaderConfig(tasks=list(LABELS), labels=LABELS, init="scaled")
model = HyperLoaderModel(AutoModel.from_pretrained(NAME), config).to(device).train()


def batch_of(task: str) -> dict:
    """One sentence of a task, with a label at the first token of every word."""
    text, tags = SENTENCES[task]
    encoded = tokenizer(text.split(), is_split_into_words=True, return_tensors="pt")
    labels = torch.full(encoded["input_ids"].shape, -100)
    places = encoded.word_ids(0)
    for place, word in enumerate(places):
        if word is not None and word != places[place - 1]:
            labels[0, place] = int(tags[word])
    return {name: tensor.to(device) for name, tensor in {**encoded, "labels": labels}.items()}


if SHARDED:
    for layer in model.backbone.encoder.layer:
        fully_shard(layer)
    together = fully_shard(model)  # last the whole
else:
    together = DistributedDataParallel(model)  # no find_unused_parameters: other tasks' heads get gradients of zero

optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=5e-3)
task = list(LABELS)[rank % len(LABELS)]  # each process has a task of its own here
for _ in range(31):
    loss = together(**batch_of(task), task=task).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()

model.eval().save_pretrained(FOLDER, is_main_process=rank == 0)  # with FSDP all gather, one writes
dist.barrier()
if rank == 0:
    again = HyperLoaderModel.from_pretrained(FOLDER, AutoModel.from_pretrained(NAME)).to(device)
    for name in LABELS:
        batch = batch_of(name)
        with torch.no_grad():
            found = again(**batch, task=name).logits.argmax(-1)
        right = (found == batch["labels"])[batch["labels"] != -100].float().mean()
        print(f"{name}: right tags: {right:.0%}")
dist.destroy_process_group()
