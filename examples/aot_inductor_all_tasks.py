"""One compiled file with all tasks inside, served by torch without this package: sentences of different tasks together.

    hyperloader export RUN_FOLDER served --format aot-inductor
    python aot_inductor_all_tasks.py served

Needs torch and tokenizers. A file that `save_compiled(model, path, operators="ours")` wrote needs our extension too:
`torch.ops.load_library(path of hyperloader/_C*.so)` before it is loaded.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer

folder = Path(sys.argv[1])
tasks = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))["tasks"]
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
program = torch._inductor.aoti_load_package(str(folder / "compiled.pt2"))

sentences = ["play nina simone", "wake me at seven"]
wanted = [number % len(tasks) for number in range(len(sentences))]  # the task of each sentence

tokenizer.enable_padding()
encoded = tokenizer.encode_batch([sentence.split() for sentence in sentences], is_pretokenized=True)
inputs = [[getattr(one, name) for one in encoded] for name in ("ids", "attention_mask", "type_ids")]  # of a BERT
logits = program(*map(torch.tensor, inputs), torch.tensor(wanted))  # (sentences, tokens, most labels)

for sentence, task, row, one in zip(sentences, wanted, logits, encoded, strict=True):
    first = {word: token for token, word in reversed(list(enumerate(one.word_ids))) if word is not None}
    labels = [tasks[task]["labels"][row[first[number]].argmax()] for number in range(len(first))]
    said = [f"{word}/{label}" for word, label in zip(sentence.split(), labels, strict=True)]
    print(f"{tasks[task]['name']}: {' '.join(said)}")
assert "hyperloader" not in sys.modules
