"""One ONNX file with all tasks inside, served without torch: sentences of different tasks in one batch.

    hyperloader export RUN_FOLDER served --format onnx
    python onnx_all_tasks.py served

Needs onnxruntime, tokenizers and numpy.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder = Path(sys.argv[1])
tasks = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))["tasks"]
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
session = onnxruntime.InferenceSession(folder / "model.onnx")

sentences = ["play nina simone", "wake me at seven"]
wanted = [number % len(tasks) for number in range(len(sentences))]  # the task of each sentence

tokenizer.enable_padding()
encoded = tokenizer.encode_batch([sentence.split() for sentence in sentences], is_pretokenized=True)
given = {
    "input_ids": np.array([one.ids for one in encoded]),
    "attention_mask": np.array([one.attention_mask for one in encoded]),
    "token_type_ids": np.array([one.type_ids for one in encoded]),
    "task_ids": np.array(wanted),
}
inputs = {one.name: given[one.name] for one in session.get_inputs()}
(logits,) = session.run(["logits"], inputs)  # (sentences, tokens, most labels): -inf beyond a task's own labels

for sentence, task, row, one in zip(sentences, wanted, logits, encoded, strict=True):
    labels = tasks[task]["labels"]
    if tasks[task]["kind"] == "classification":
        print(f"{tasks[task]['name']}: {sentence}: {labels[row[0].argmax()]}")
        continue
    first = {word: token for token, word in reversed(list(enumerate(one.word_ids))) if word is not None}
    said = [f"{word}/{labels[row[first[number]].argmax()]}" for number, word in enumerate(sentence.split())]
    print(f"{tasks[task]['name']}: {' '.join(said)}")
