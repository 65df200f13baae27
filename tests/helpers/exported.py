"""Batches of several sizes for models that were exported, and the kinds of their tasks."""

import torch
from helpers import tiny

KINDS = {"kinds": {"a": "tagging", "b c": "classification", "ü.weight": "tagging"}}
SIZES = ((5, 7), (1, 4), (7, 1), (1, 1))


def batch(sentences: int, tokens: int) -> dict[str, torch.Tensor]:
    """Inputs by name, some of them padded."""
    generator = torch.Generator().manual_seed(sentences)
    mask = torch.ones(sentences, tokens, dtype=torch.int64)
    mask[1::2, tokens // 2 + 1 :] = 0
    return {
        "input_ids": torch.randint(2, tiny.VOCABULARY, (sentences, tokens), generator=generator),
        "attention_mask": mask,
        "token_type_ids": torch.zeros_like(mask),
        "task_ids": torch.randint(0, len(tiny.TASKS), (sentences,), generator=generator),
    }
