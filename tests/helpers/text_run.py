"""A run of every kind of task that a model writes text for, on a small random decoder or encoder-decoder."""

import json
import random
from pathlib import Path
from typing import Any

import torch
import yaml

COLOURS = ["red", "green", "blue", "dark red"]
PLACES = ["rome", "oslo", "new york"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ["<|pad|>", "<|eos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
_SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_SEQUENCE: dict[str, Any] = {"d_model": 32, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {**_SIZES, "num_key_value_heads": 2, "max_position_embeddings": 256}),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "t5": ("T5ForConditionalGeneration", {**_SEQUENCE, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}),
    "bart": (
        "BartForConditionalGeneration",
        {
            **_SEQUENCE,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "forced_eos_token_id": None,
        },
    ),
}
DECODER_TASKS = {
    "colours": "tagging",
    "answer": "completion",
    "which": "classification",
    "talk": "chat",
    "twins": "classification",
    "short": "text-to-text",
}
BOTH_TASKS = {task: kind for task, kind in DECODER_TASKS.items() if kind not in ("completion", "chat")}


def texts() -> list[str]:
    """Everything that a tokenizer has to spell."""
    return [json.dumps(row) for task in DECODER_TASKS for row in rows(task, 30, 0)] + [" -> [ red | colour ]"] * 50


def tokenizer(sequence: bool = False) -> Any:
    """A byte-level tokenizer with a chat template, for an encoder-decoder with the end token behind every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(texts(), trainer)
    if sequence:
        core.post_processor = processors.TemplateProcessing("$A <|eos|>", special_tokens=[("<|eos|>", 1)])
    named = {"pad_token": "<|pad|>", "eos_token": "<|eos|>", "additional_special_tokens": SPECIAL[2:]}
    found = PreTrainedTokenizerFast(tokenizer_object=core, **named)
    found.chat_template = TEMPLATE
    return found


def make(name: str, vocabulary: int, **changes: Any) -> Any:
    """A random backbone of ``MODELS`` in evaluation mode."""
    import transformers

    kind, sizes = MODELS[name]
    found: Any = getattr(transformers, kind)
    torch.manual_seed(0)
    return found(found.config_class(vocab_size=vocabulary, **sizes | changes)).eval()


def write(folder: Path, name: str = "llama") -> dict:
    """Write data and backbone to ``folder``; returns what a run's YAML file in it holds, but for ``output``."""
    sequence = name in ("t5", "bart")
    tokens = tokenizer(sequence)
    make(name, len(tokens)).save_pretrained(folder / name)
    tokens.save_pretrained(folder / name)
    tasks = BOTH_TASKS if sequence else DECODER_TASKS
    for task in tasks:
        (folder / "data" / task).mkdir(parents=True, exist_ok=True)
        for seed, (split, count) in enumerate((("train", 40), ("validation", 6), ("test", 8))):
            lines = "".join(json.dumps(row) + "\n" for row in rows(task, count, seed))
            (folder / "data" / task / f"{split}.jsonl").write_text(lines)
    return {
        "backbone": name,
        "head": "text-to-text" if sequence else "language-model",
        "tasks": [{"name": task, "kind": kind, "path": f"data/{task}"} for task, kind in tasks.items()],
        "model": {"reduction_factor": 4, "rank": 2},
        "training": {
            "steps": 6,
            "batch_size": 8,
            "eval_steps": 3,
            "save_steps": 3,
            "log_steps": 1,
            "max_length": 64,
            "report_to": "none",
        },
    }


def rows(task: str, count: int, seed: int) -> list[dict]:
    """Lines of a task's file."""
    draw, found = random.Random(f"{task} {seed}"), []
    for _ in range(count):
        colour, place = draw.choice(COLOURS), draw.choice(PLACES)
        words = [*("show", "me")[: draw.randrange(3)], *colour.split(), "in", *place.split()]
        text = " ".join(words)
        if task == "colours":
            start, after = words.index(colour.split()[0]), len(colour.split())
            tags = ["O"] * len(words)
            tags[start : start + after] = ["B-colour"] + ["I-colour"] * (after - 1)
            found.append({"tokens": words, "tags": tags})
        elif task == "answer":
            found.append({"prompt": f"{text}\nplace:", "completion": f" {place}", "id": len(found)})
        elif task == "which":
            found.append({"text": text, "label": f"to_{place.replace(' ', '_')}"})
        elif task == "twins":
            other = draw.choice(PLACES)
            found.append({"text": text, "text_pair": f"in {other}", "label": "same" if other == place else "other"})
        elif task == "short":
            found.append({"source": text, "target": f"{colour} {place}"})
        else:
            messages = [
                {"role": "user", "content": f"say {colour}"},
                {"role": "assistant", "content": colour},
                {"role": "user", "content": text},
                {"role": "assistant", "content": place},
            ]
            found.append({"messages": messages})
    return found


def write_config(folder: Path, name: str = "llama", **changes) -> Path:
    """The same with the file of a run, whose path is returned; ``changes`` are keys of it."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**write(folder, name), "output": "run", **changes}))
    return path
