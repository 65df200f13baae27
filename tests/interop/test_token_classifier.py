"""One task as transformers' own token classifier."""

import pytest
import torch
from helpers import tiny

from hyperloader.interop.token_classifier import save_token_classifier, token_classifier

LORA_ALONE = {"adapter_sites": ()}


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "t5-encoder"])
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
        ("electra", LORA_ALONE, "ElectraForTokenClassification "),
    ],
)
def test_what_has_no_place_there_is_named(name, options, message):
    merged = tiny.make_model(name, torch.float32, **options).merge("a")
    with pytest.raises(ValueError, match=message) as caught:
        token_classifier(merged)
    assert "; the formats onnx and ours hold all of it" in str(caught.value)
