"""The backbone in bfloat16, what is trained in float32: how far its gradient is from that of float32, and a training.

    python examples/half_precision.py [BACKBONE] [FOLDER]

BACKBONE is a BERT-like encoder with a fast tokenizer. In a run file it is one line: `backbone_dtype: bfloat16`, or
`training: {bf16: true}` for a float32 backbone that is computed in bfloat16. float16 wants torch.amp.GradScaler.
"""

import sys

import torch
from transformers import AutoModel, AutoTokenizer

from hyperloader import HyperLoaderConfig, HyperLoaderModel

NAME = sys.argv[1] if len(sys.argv) > 1 else "google-bert/bert-base-uncased"
FOLDER = sys.argv[2] if len(sys.argv) > 2 else "half-precision"
LABELS = {"flights": ["O", "B-city", "I-city"], "music": ["O", "B-artist"]}
SENTENCES = [("flights", "flights from new york to boston", "001201"), ("music", "add bowie to favourites", "0100")]

tokenizer = AutoTokenizer.from_pretrained(NAME)
config = HyperLoaderConfig(tasks=list(LABELS), labels=LABELS, init="scaled")
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


def attached(dtype: torch.dtype) -> HyperLoaderModel:
    """The same new model on a backbone of ``dtype``."""
    torch.manual_seed(0)
    return HyperLoaderModel(AutoModel.from_pretrained(NAME, dtype=dtype), config).eval()  # without dropout


def gradient(model: HyperLoaderModel) -> torch.Tensor:
    """Of one batch, all numbers in one row."""
    model.zero_grad()
    model(**batch, task_ids=task_ids, labels=labels).loss.backward()
    return torch.cat([one.grad.flatten() for one in model.parameters() if one.requires_grad])


exact, half = attached(torch.float32), attached(torch.bfloat16)
wanted, found = gradient(exact), gradient(half)
print(f"trained numbers are {', '.join({str(one.dtype) for one in half.trainable_state().values()})}")
print(f"the gradient differs by {(found - wanted).norm() / wanted.norm():.1%} from that of float32")

optimizer = torch.optim.AdamW((p for p in half.parameters() if p.requires_grad), lr=5e-3)
for step in range(31):
    loss = half(**batch, task_ids=task_ids, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 10 == 0:
        print(f"step {step}: loss {loss.item():.3f}")

half.save_pretrained(FOLDER)
again = HyperLoaderModel.from_pretrained(FOLDER)  # loads the backbone that it names, in bfloat16
with torch.no_grad():
    logits = [one(**batch, task_ids=task_ids).logits for one in (half, again)]
print(f"saved and loaded in {again.dtype}, the same to the bit: {torch.equal(*logits)}")
