"""The whole text-to-text path on real sentences: a T5 with random weights learns 16 of them by heart."""

import pytest
import torch
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from hyperloader import HyperLoaderConfig, HyperLoaderModel
from hyperloader.data import read_split
from hyperloader.data.text_to_text import TextToText
from hyperloader.training.evaluation import Scorer

TASKS, SENTENCES, STEPS = ["atis", "mit_restaurant"], 8, 400


@pytest.mark.parametrize("mode", [pytest.param("single", marks=pytest.mark.slow), "mixed"])
def test_t5_overfits_real_sentences_through_generate(data_folder, mode):
    tokenizer = AutoTokenizer.from_pretrained(data_folder / "t5_tokenizer")
    formulation = TextToText(tokenizer, TASKS)
    sentences = {}
    for task in TASKS:
        short = [one for one in read_split(data_folder / task / "train.jsonl") if 3 <= len(one.tokens) <= 6]
        sentences[task] = [one for one in short if any(tag != "O" for tag in one.tags)][:SENTENCES]
    examples = formulation.encode_all(sentences)
    sizes = {"d_model": 64, "d_kv": 16, "num_heads": 4, "d_ff": 128, "num_layers": 2, "dropout_rate": 0.0}
    backbone = T5ForConditionalGeneration(
        T5Config(**sizes, vocab_size=32128, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
    )
    model = HyperLoaderModel(backbone, HyperLoaderConfig(tasks=TASKS, reduction_factor=4, init="scaled"))
    backbone.requires_grad_(True)  # its random weights know nothing yet
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    batches = [[*examples[TASKS[0]], *examples[TASKS[1]]]] if mode == "mixed" else list(examples.values())
    batches = [formulation.collate(batch) for batch in batches]
    score = Scorer(formulation, sentences, batch_size=2 * SENTENCES)

    scores = None
    for step in range(STEPS):
        loss = model(**batches[step % len(batches)]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.05 and step % 20 == 0:
            model.eval()
            if (scores := score(model))["mean_f1"] == 1:
                break
            model.train()
    assert {task: one["f1"] for task, one in scores["tasks"].items()} == dict.fromkeys(TASKS, 1.0)
