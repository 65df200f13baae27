"""Runs on encoder-decoders other than T5, and on their encoders alone."""

import shutil

import pytest
import torch
import transformers
from helpers.families import FAMILIES
from transformers import AutoTokenizer, GenerationConfig

from hyperloader.training.backbone import load_backbone
from hyperloader.training.run import train
from hyperloader.training.saved_run import evaluate

TEXT = {"bart": 1, "mbart": 1, "pegasus": 0, "umt5": 0, "longt5": 0}  # family -> what its decoder begins with
ENCODERS = {"umt5": "UMT5EncoderModel", "longt5": "LongT5EncoderModel", "t5": "T5EncoderModel"}


@pytest.fixture
def save(t5, tmp_path):
    """Save the tiny backbone of a family with the word-level tokenizer of the tiny T5."""

    def save(name):
        kind, sizes = FAMILIES[name]
        found, folder = getattr(transformers, kind), tmp_path / name
        tokenizer = AutoTokenizer.from_pretrained(t5)
        ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "decoder_start_token_id": TEXT.get(name, 0)}
        torch.manual_seed(0)
        model = found(found.config_class(**sizes | {"vocab_size": len(tokenizer)} | ids))
        model.generation_config = GenerationConfig(no_repeat_ngram_size=2, num_beams=4, early_stopping=True, **ids)
        model.save_pretrained(folder)
        for file in t5.glob("tokenizer*"):
            shutil.copy(file, folder)
        return folder

    return save


@pytest.mark.parametrize("name", TEXT)
def test_text_to_text(name, save, settings):
    config = settings(
        backbone=str(save(name)), head="text-to-text", training={"steps": 2, "eval_steps": 2, "save_steps": 2}
    )
    scores = train(config, progress=False)["test"]
    assert evaluate(config.output) == scores


@pytest.mark.parametrize("name", ENCODERS)
def test_the_encoder_alone_is_the_families_own(name, save):
    folder = save(name)
    with torch.no_grad():
        encoder, tokenizer = load_backbone(str(folder), "token-classification")
        assert type(encoder).__name__ == ENCODERS[name]
        ids = tokenizer("show me the red shirts", return_tensors="pt").input_ids
        whole, _ = load_backbone(str(folder), "text-to-text")
        assert torch.equal(
            encoder(input_ids=ids).last_hidden_state, whole.get_encoder()(input_ids=ids).last_hidden_state
        )


@pytest.mark.parametrize("name", ["umt5", "longt5"])
def test_tagging_with_the_encoder_alone(name, save, settings):
    config = settings(backbone=str(save(name)), training={"steps": 2, "eval_steps": 2, "save_steps": 2})
    scores = train(config, progress=False)["test"]
    assert evaluate(config.output) == scores


def test_tagging_with_heads_on_bart_is_refused(save, settings):
    with pytest.raises(ValueError, match="labels must be None for BartModel: token classification needs an encoder"):
        train(settings(backbone=str(save("bart"))), progress=False)
