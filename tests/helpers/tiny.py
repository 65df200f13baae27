"""Small random backbones and models for tests, and batches for them."""

import torch
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    MT5Config,
    MT5ForConditionalGeneration,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from hyperloader import HyperLoaderConfig, HyperLoaderModel

VOCABULARY = 50
TASKS = ["a", "b c", "ü.weight"]
LABELS = {"a": ["O", "B-x", "I-x"], "b c": ["O"], "ü.weight": ["O", "B-y", "I-y", "B-z", "I-z"]}
TASK_IDS = torch.tensor([0, 2, 1, 0, 2])  # of the sentences of make_batch


def _t5(kind, config_kind=T5Config, **options):
    sizes = {"d_model": 16, "d_kv": 4, "num_heads": 4, "d_ff": 32, "num_layers": 3, "num_decoder_layers": 2}
    sizes |= {"vocab_size": VOCABULARY, "decoder_start_token_id": 0, "dropout_rate": 0.0}
    return kind(config_kind(**sizes | options))


def _bert(kind, config_kind):
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2}
    sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "vocab_size": VOCABULARY}
    if config_kind is ElectraConfig:
        sizes["embedding_size"] = 16
    return kind(config_kind(**sizes))


def _distilbert():
    sizes = {"dim": 16, "n_heads": 2, "hidden_dim": 32, "n_layers": 2, "vocab_size": VOCABULARY}
    return DistilBertModel(DistilBertConfig(**sizes, dropout=0.0, attention_dropout=0.0))


BACKBONES = {
    "t5": lambda: _t5(T5ForConditionalGeneration),
    "t5-gated": lambda: _t5(T5ForConditionalGeneration, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "t5-narrow-heads": lambda: _t5(T5ForConditionalGeneration, d_kv=3),
    "t5-encoder": lambda: _t5(T5EncoderModel),
    "mt5": lambda: _t5(MT5ForConditionalGeneration, MT5Config),
    "bert": lambda: _bert(BertModel, BertConfig),
    "roberta": lambda: _bert(RobertaModel, RobertaConfig),
    "xlm-roberta": lambda: _bert(XLMRobertaModel, XLMRobertaConfig),
    "electra": lambda: _bert(ElectraModel, ElectraConfig),
    "distilbert": _distilbert,
}
SEQUENCE_TO_SEQUENCE = ("t5", "t5-gated", "t5-narrow-heads", "mt5")


def make(name: str, dtype: torch.dtype = torch.float32):
    """A backbone of ``BACKBONES`` with the same weights every time."""
    torch.manual_seed(1)
    return BACKBONES[name]().to(dtype).eval()


def randomise(model, deviation: float = 0.3) -> None:
    """Give every trained parameter a random value, so that no part of the model is at a special point."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, 0, deviation)


def config_for(name="t5", **options):
    """Of a model with ``TASKS``, and with ``LABELS`` on an encoder."""
    labels = None if name in SEQUENCE_TO_SEQUENCE else LABELS
    return HyperLoaderConfig(tasks=TASKS, **{"labels": labels, "reduction_factor": 4, "rank": 2} | options)


def make_model(name="t5", dtype=torch.float64, randomised=True, **options):
    model = HyperLoaderModel(make(name, dtype), config_for(name, **options)).to(dtype).eval()
    if randomised:
        randomise(model)
    return model


def make_batch(name="t5"):
    generator = torch.Generator().manual_seed(2)  # its own: tests call this in several threads
    batch = {"input_ids": torch.randint(2, VOCABULARY, (5, 7), generator=generator)}
    batch["attention_mask"] = torch.ones(5, 7).long()
    if name in SEQUENCE_TO_SEQUENCE:
        batch["labels"] = torch.randint(2, VOCABULARY, (5, 6), generator=generator)
    else:
        sizes = torch.tensor([len(LABELS[task]) for task in TASKS])[TASK_IDS]
        batch["labels"] = torch.randint(10**6, (5, 7), generator=generator) % sizes[:, None]
    return batch


@torch.no_grad()
def logits(model, name, **selected):
    """What a model, or one task's, computes for ``make_batch``."""
    batch = make_batch(name)
    return model(**batch | ({} if name in SEQUENCE_TO_SEQUENCE else {"labels": None}), **selected).logits
