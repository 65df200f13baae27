"""A quantised backbone: trained around, saved, loaded, and one task merged into plain layers.

    pip install 'hyperloader[quantization]'
    python examples/quantized.py [BACKBONE] [FOLDER] [QUANTIZATION]

BACKBONE is a BERT-like encoder with a fast tokenizer, QUANTIZATION torchao-int8, torchao-int4, torchao-int8-dynamic,
bitsandbytes-int8 or bitsandbytes-nf4. In a run file it is one line: `backbone_quantization: torchao-int8`.
"""

import sys

import torch
from transformers import AutoModel, AutoTokenizer

from hyperloader import HyperLoaderConfig, HyperLoaderModel, TaskModel
from hyperloader.backbones.quantization import layers_to_quantize, quantize

NAME = sys.argv[1] if len(sys.argv) > 1 else "google-bert/bert-base-uncased"
FOLDER = sys.argv[2] if len(sys.argv) > 2 else "quantized-tasks"
QUANTIZATION = sys.argv[3] if len(sys.argv) > 3 else "torchao-int8"
LABELS = {"flights": ["O", "B-city", "I-city"], "music": ["O", "B-artist"]}
SENTENCES = [("flights", "flights from new york to boston", "001201"), ("music", "add bowie to favourites", "0100")]

torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(NAME)
backbone = AutoModel.from_pretrained(NAME)
layers = layers_to_quantize(backbone, QUANTIZATION)  # the linear ones of its layers, by path
quantize(backbone, layers)  # before it is attached
config = HyperLoaderConfig(tasks=list(LABELS), labels=LABELS, init="scaled")
model = HyperLoaderModel(backbone, config).train()
print(f"{len(layers)} layers are {QUANTIZATION}")

batch = tokenizer(
    [text.split() for _, text, _ in SENTENCES], is_split_into_words=True, padding=True, return_tensors="pt"
)
task_ids = torch.tensor([config.tasks.index(task) for task, _, _ in SENTENCES])
labels = torch.full(batch["input_ids"].shape, -100)
for row, (_, _, tags) in enumerate(SENTENCES):
    places = batch.word_ids(row)
    for place, word in enumerate(places):
        if word is not None and word != places[place - 1]:
            labels[row, place] = int(tags[word])

trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=5e-3)
for _ in range(30):
    model(**batch, task_ids=task_ids, labels=labels).loss.backward()
    optimizer.step()
    optimizer.zero_grad()

model.eval().save_pretrained(FOLDER)  # what is trained, and which layer is quantised how
again = HyperLoaderModel.from_pretrained(FOLDER)  # loads the backbone that it names and quantises it
with torch.no_grad():
    expected, found = (one(**batch, task_ids=task_ids).logits for one in (model, again))
right = (found.argmax(-1) == labels)[labels != -100].float().mean()
print(f"right tags: {right:.0%}, the same as before saving to the bit: {torch.equal(found, expected)}")

merged = again.merge("flights", dequantize=True)  # without it LoRA stays beside the quantised weights
merged.save_pretrained(f"{FOLDER}-flights")
one = {name: tensor[:1] for name, tensor in batch.items()}
with torch.no_grad():
    alone = TaskModel.from_pretrained(f"{FOLDER}-flights")(**one).logits
    own = again(**one, task="flights").logits
print(f"merged and unmerged differ by {(alone - own).abs().max():.1e}")
