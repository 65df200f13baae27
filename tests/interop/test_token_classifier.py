"""One task as transformers' own token classifier."""

import pytest
import torch
from helpers import tiny

from hyperloader.interop.token_classifier import save_token_classifier, token_classifier

LORA_ALONE = {"adapter_sites": ()}


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra", "t5-encoder"])
def test_loaded_by_transformers_it_says_the_same(name, tmp_path):
    from transformers import AutoModelForTokenClassification

    merged = tiny.make_model(name, torch.float32, **LORA_ALONE).merge("ü.weight")
    save_token_classifier(merged, tmp_path / "model")
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path / "model").eval()
    assert loaded.config.id2label == dict(enumerate(tiny.LABELS["ü.weight"]))
    wanted = tiny.logits(merged, name)
    inputs = {key: value for key, value in tiny.make_batch(name).items() if key != "labels"}
    with torch.no_grad():
        assert (loaded(**inputs).logits - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bert", {}, "transformers has no place for the adapters at encoder.layer.0.attention.output.dense"),
        ("bert", {"kinds": {"a": "classification"}} | LORA_ALONE, "task 'a' must be one of tagging"),
    ],
)
def test_what_has_no_place_there_is_named(name, options, message):
    merged = tiny.make_model(name, torch.float32, **options).merge("a")
    with pytest.raises(ValueError, match=message) as caught:
        token_classifier(merged)
    assert "; the formats onnx and ours hold all of it" in str(caught.value)


def test_a_classifier_with_layers_of_its_own():
    from transformers import ModernBertConfig, ModernBertModel

    from hyperloader import HyperLoaderModel

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2}
    backbone = ModernBertModel(ModernBertConfig(vocab_size=tiny.VOCABULARY, pad_token_id=0, **sizes)).eval()
    merged = HyperLoaderModel(backbone, tiny.config_for("bert", **LORA_ALONE)).eval().merge("a")
    with pytest.raises(ValueError, match="ModernBertForTokenClassification must have one linear layer behind"):
        token_classifier(merged)


def test_a_model_that_writes_text():
    with pytest.raises(
        ValueError, match="task 'a' must have a head for transformers' token classifiers; the format ours"
    ):
        token_classifier(tiny.make_model("t5", torch.float32).merge("a"))
