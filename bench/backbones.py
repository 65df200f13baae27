"""Backbones of the sizes that are measured, with random weights, and one of our models around them."""

import torch
from torch import Tensor, nn

from bench.case import Setting
from hyperloader import HyperLoaderConfig, HyperLoaderModel

VOCABULARY = 1000  # small, so that the embedding and the output layer do not hide the rest
LABELS = 16  # per task
_SEED = 0


def _encoder(hidden: int, layers: int, heads: int) -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * hidden, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False)


def _t5(hidden: int, layers: int, heads: int) -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=VOCABULARY, d_model=hidden, d_kv=hidden // heads, d_ff=4 * hidden, num_layers=layers,
        num_heads=heads, dropout_rate=0.0, decoder_start_token_id=0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def _decoder(hidden: int, layers: int, heads: int, value_heads: int, feed_forward: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=value_heads, intermediate_size=feed_forward, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


ENCODERS = {
    "MiniLM": lambda layers: _encoder(384, layers or 6, 12),
    "tiny encoder": lambda layers: _encoder(64, layers or 2, 4),
}
WRITERS = {  # of text
    "T5-small": lambda layers: _t5(512, layers or 6, 8),
    "T5-base": lambda layers: _t5(768, layers or 12, 12),
    "tiny T5": lambda layers: _t5(64, layers or 2, 4),
    "Llama 1B": lambda layers: _decoder(2048, layers or 16, 32, 8, 8192),
    "SmolLM2": lambda layers: _decoder(576, layers or 30, 9, 3, 1536),
    "tiny decoder": lambda layers: _decoder(48, layers or 2, 3, 1, 96),
}
BACKBONES = ENCODERS | WRITERS


def make_model(
    name: str, setting: Setting, tasks: int = 1, layers: int | None = None, **options: object
) -> HyperLoaderModel:
    """One of ours around backbone ``name``, in training mode, with the same weights every time.

    ``options`` are fields of its config. Dropout is off, so that all providers compute the same; LoRA's B is small and
    random, not zero as in a new model: a large one would drive the attention of a random T5 into saturation, where
    float32 has no digits left.
    """
    torch.manual_seed(_SEED)
    with setting.device:  # a billion random numbers take the host ten seconds
        backbone = BACKBONES[name](layers)
    names = [f"task {number}" for number in range(tasks)]
    encoder = not backbone.can_generate()
    labels = {task: [f"label {number}" for number in range(LABELS)] for task in names} if encoder else None
    model = HyperLoaderModel(backbone, HyperLoaderConfig(tasks=names, labels=labels, **options))
    for generator in model.generators.values():
        if "lora_B" not in generator.heads:
            continue
        nn.init.normal_(generator.heads["lora_B"].weight, 0, 1e-4)
    return model.to(setting.device, setting.dtype).train()


def make_batch(name: str, setting: Setting, sentences: int, tokens: int) -> dict[str, Tensor]:
    """Random token ids and labels, the same every time."""
    torch.manual_seed(_SEED)
    input_ids = torch.randint(2, VOCABULARY, (sentences, tokens))
    labels = torch.randint(0, VOCABULARY if name in WRITERS else LABELS, (sentences, tokens))
    return {"input_ids": input_ids.to(setting.device), "labels": labels.to(setting.device)}
