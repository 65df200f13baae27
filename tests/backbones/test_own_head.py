"""Backbones that bring a head along."""

import pytest
import torch
import transformers
from helpers.tiny import LABELS, TASKS, VOCABULARY, make_batch
from transformers import BertConfig, T5Config

from hyperloader import HyperLoaderConfig, HyperLoaderModel

BERT = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2}
T5 = {"d_model": 16, "d_kv": 4, "num_heads": 4, "d_ff": 32, "num_layers": 2}
BASE = r"its base model, backbone\.{} \(a {}\), with config.labels for one token-classification head per task"
SEQUENCE = "T5EncoderModel with config.labels for tagging, or T5ForConditionalGeneration for text-to-text"


def make(kind):
    torch.manual_seed(1)
    config = (
        BertConfig(vocab_size=VOCABULARY, **BERT) if kind.startswith("Bert") else T5Config(vocab_size=VOCABULARY, **T5)
    )
    return getattr(transformers, kind)(config)


def attach(backbone, labels):
    return HyperLoaderModel(backbone, HyperLoaderConfig(tasks=TASKS, labels=labels, reduction_factor=4))


@pytest.mark.parametrize(
    ("kind", "instead"),
    [
        ("BertForTokenClassification", BASE.format("bert", "BertModel")),
        ("BertForSequenceClassification", BASE.format("bert", "BertModel")),
        ("BertForQuestionAnswering", BASE.format("bert", "BertModel")),
        ("T5ForTokenClassification", BASE.format("transformer", "T5EncoderModel")),
        ("T5ForQuestionAnswering", SEQUENCE),
        ("T5ForSequenceClassification", SEQUENCE),
    ],
)
@pytest.mark.parametrize("labels", [None, LABELS], ids=["plain", "labels"])
def test_a_head_that_would_never_be_trained_is_refused_before_anything_is_done(kind, instead, labels):
    backbone = make(kind)
    before = list(backbone.state_dict())
    with pytest.raises(ValueError, match=rf"got {kind}, which has a head of its own: pass {instead}$"):
        attach(backbone, labels)
    assert list(backbone.state_dict()) == before and all(one.requires_grad for one in backbone.parameters())
    if "backbone." in instead:  # what the message says works
        base = backbone.base_model
        batch = make_batch("bert")
        assert attach(base, LABELS)(**batch | {"labels": None}, task="a").logits.shape == (5, 7, 3)


def test_a_language_models_head_is_used_as_it_is():
    model = attach(make("BertForMaskedLM"), None)
    batch = make_batch("bert")
    output = model(**batch, task="a")
    assert output.logits.shape == (5, 7, VOCABULARY)
    output.loss.backward()
    assert model.backbone.cls.predictions.transform.dense.weight.grad is None


def test_a_language_model_with_labels_is_refused():
    with pytest.raises(
        ValueError, match=r"must return hidden states where config.labels.*backbone\.bert \(a BertModel\)"
    ):
        attach(make("BertForMaskedLM"), LABELS)


@pytest.mark.parametrize(
    ("kind", "instead"),
    [
        (
            "MT5ForQuestionAnswering",
            "MT5EncoderModel with config.labels for tagging, or MT5ForConditionalGeneration for",
        ),
        ("UMT5ForQuestionAnswering", "UMT5EncoderModel with config.labels for tagging, or UMT5ForConditionalGener"),
        ("BartForSequenceClassification", "BartForConditionalGeneration for text-to-text$"),
        ("MBartForQuestionAnswering", "MBartForConditionalGeneration for text-to-text$"),
        ("DebertaV2ForTokenClassification", BASE.format("deberta", "DebertaV2Model")),
        ("AlbertForSequenceClassification", BASE.format("albert", "AlbertModel")),
    ],
)
def test_what_to_pass_instead_is_of_the_same_family(kind, instead):
    found = getattr(transformers, kind)
    with torch.device("meta"):
        backbone = found(found.config_class(vocab_size=VOCABULARY))
    for labels in (None, LABELS):
        with pytest.raises(ValueError, match=rf"got {kind}, which has a head of its own: pass {instead}"):
            attach(backbone, labels)


@pytest.mark.parametrize("kind", ["BartModel", "BartForConditionalGeneration", "PegasusForConditionalGeneration"])
def test_heads_on_a_backbone_with_a_decoder_are_refused(kind):
    found = getattr(transformers, kind)
    with torch.device("meta"):
        backbone = found(found.config_class(vocab_size=VOCABULARY))
    with pytest.raises(ValueError, match=rf"{kind}.*T5EncoderModel"):
        attach(backbone, LABELS)
