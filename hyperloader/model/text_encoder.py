"""Frozen embeddings of texts: the mean over a text's tokens of an encoder's last hidden states."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hyperloader.backbones import origin
from hyperloader.checkpoints.minilm import MINILM_WIDTH, minilm_folder
from hyperloader.config import MINILM, HyperLoaderConfig
from hyperloader.validation import shown

_BATCH = 32  # texts at a time


def text_width(backbone: Any, config: HyperLoaderConfig) -> int:
    """Numbers in the embedding of a text."""
    return MINILM_WIDTH if config.text_encoder == MINILM else backbone.config.get_text_config().hidden_size


def tokenizer_of(backbone: nn.Module) -> Any:
    """The tokenizer that stands where ``backbone`` was loaded from; raises ``ValueError`` where there is none."""
    from transformers import AutoTokenizer

    name = origin.name_of(backbone)
    try:
        if not name:
            raise OSError("the backbone has no name")
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"tokenizer must be given for a model with descriptions where none stands with the backbone ({reason})"
        ) from error


def minilm() -> tuple[nn.Module, Any]:
    """all-MiniLM-L6-v2 and its tokenizer; raises ``FileNotFoundError`` where its package is not installed."""
    from transformers import AutoModel, AutoTokenizer

    folder = minilm_folder()
    with origin.quiet():
        model = AutoModel.from_pretrained(folder, add_pooling_layer=False, use_safetensors=True, dtype="float32")
    return model, AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def embedded(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """(texts, hidden) float32, or float64 for a ``model`` in float64, on its device: the mean over each text's tokens.

    Raises:
        ValueError: a text without tokens, or with more than the model takes.
    """
    encoder = model.get_encoder() if model.config.is_encoder_decoder else getattr(model, "base_model", model)
    limits = (getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length)
    longest = min(limit for limit in limits if limit and limit > 0)
    ids = tokenizer(list(texts), verbose=False)["input_ids"]
    for text, tokens in zip(texts, ids, strict=True):
        if not 0 < len(tokens) <= longest:
            raise ValueError(f"a description must have 1 to {longest} tokens, got {len(tokens)} in {shown(text)}")
    found = []
    with _evaluated(model):
        for start in range(0, len(ids), _BATCH):
            some = ids[start : start + _BATCH]
            size = max(map(len, some))
            rows = torch.tensor([one + [0] * (size - len(one)) for one in some], device=model.device)
            mask = torch.tensor([[1] * len(one) + [0] * (size - len(one)) for one in some], device=model.device)
            states = encoder(input_ids=rows, attention_mask=mask).last_hidden_state
            states = states.to(torch.promote_types(states.dtype, torch.float32))
            found.append(states.masked_fill(mask[..., None] == 0, 0).sum(1) / mask.sum(1, keepdim=True))
    return torch.cat(found)


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """``model`` in evaluation mode; afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
