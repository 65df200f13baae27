"""Descriptions of the tasks of ``helpers.tiny``, and a tokenizer whose words are numbers."""

import math

import torch
from helpers import tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hyperloader import HyperLoaderModel

DESCRIPTIONS = {"a": ["find every x", "x is sought", "mark x"], "b c": "nothing at all", "ü.weight": "y and z, please"}
LABEL_WORDS = {"a": {"x": "a great place"}, "ü.weight": {"y": "some person"}}
_WORDS = (
    "find every x is sought mark nothing at all y and z please a great place some person first later word no label any"
)


def tokenizer():
    vocabulary = {"[PAD]": 0, "[UNK]": 1, **{word: 2 + number for number, word in enumerate(_WORDS.split())}}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]")


def options(name="bert"):
    """Of the configuration of a described model."""
    words = LABEL_WORDS if name not in tiny.SEQUENCE_TO_SEQUENCE else {"a": {"anything": "some person"}}
    return {"task_condition": "description", "descriptions": DESCRIPTIONS, "label_words": words}


def make_model(name="bert", dtype=torch.float64, randomised=True, **changes):
    """As ``tiny.make_model``, of tasks in words."""
    config = tiny.config_for(name, **options(name) | changes)
    model = HyperLoaderModel(tiny.make(name, dtype), config, tokenizer=tokenizer()).to(dtype).eval()
    if randomised:
        tiny.randomise(model)
    return model


def mapped(part, text):
    """What ``part.words`` makes of an embedding, by hand."""
    normed = (text - text.mean(-1, keepdim=True)) / (text.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return normed @ part.words.weight.T / (text.shape[-1] * math.sqrt(2 / math.pi))


def pooled(backbone, text):
    """The mean of a text's last hidden states, by hand."""
    ids = torch.tensor([tokenizer()(text)["input_ids"]])
    encoder = backbone.get_encoder() if backbone.config.is_encoder_decoder else backbone
    with torch.no_grad():
        return encoder(input_ids=ids).last_hidden_state[0].mean(0)
