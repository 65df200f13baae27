"""HyperLoaderModel on its backbone: exact sizes, nothing copied, everything given back, whatever fails."""

import copy

import pytest
import torch
from helpers import tiny
from helpers.tiny import LABELS, TASKS, config_for, make_batch, make_model
from transformers import OPTConfig, OPTForCausalLM, T5Config, T5ForConditionalGeneration

from hyperloader import HyperLoaderConfig, HyperLoaderModel

each_backbone = pytest.mark.parametrize("name", tiny.BACKBONES)


@pytest.mark.parametrize(
    ("num_tasks", "options", "expected"), [(7, {}, 6_784_368), (8, {}, 6_784_432), (7, {"lora_sites": ()}, 5_210_992)]
)
def test_trainable_parameters_of_t5_base(num_tasks, options, expected):
    sizes = {"d_model": 768, "d_kv": 64, "num_heads": 12, "d_ff": 3072, "num_layers": 12, "vocab_size": 8}
    with torch.device("meta"):
        backbone = T5ForConditionalGeneration(T5Config(**sizes))
        model = HyperLoaderModel(backbone, HyperLoaderConfig(tasks=[str(i) for i in range(num_tasks)], **options))
    assert model.trainable_parameters() == expected
    if not options:
        assert [sum(p.numel() for p in g.parameters()) for g in model.generators.values()] == [3_368_152] * 2
        assert model.task_embedding.weight.numel() == 64 * num_tasks
        norms = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
        assert norms == 62 * 768


def test_print_trainable_parameters(capsys):
    model = make_model()
    model.print_trainable_parameters()
    assert f"trainable parameters: {model.trainable_parameters():,} |" in capsys.readouterr().out


@each_backbone
def test_attaching_copies_nothing_and_detach_gives_the_backbone_back(name):
    backbone = tiny.make(name)
    for parameter in list(backbone.parameters())[::2]:
        parameter.requires_grad_(False)
    before = copy.deepcopy(backbone)
    storages = {key: tensor.data_ptr() for key, tensor in backbone.state_dict().items()}
    model = HyperLoaderModel(backbone, config_for(name))
    assert model.backbone is backbone
    assert {tensor.data_ptr() for tensor in backbone.state_dict().values()} == set(storages.values())

    tiny.randomise(model)  # trained norms change the backbone
    batch = make_batch(name)
    model(**batch | {"labels": batch["labels"].clamp(max=1)}, task="a").loss.backward()
    returned = model.detach()
    assert returned is backbone
    state = backbone.state_dict()
    assert list(state) == list(storages)
    for key, tensor in before.state_dict().items():
        assert torch.equal(state[key], tensor) and state[key].data_ptr() == storages[key], key
    for (key, one), (_, other) in zip(before.named_parameters(), backbone.named_parameters(), strict=True):
        assert one.requires_grad == other.requires_grad and other.grad is None, key
    inputs = {"input_ids": make_batch(name)["input_ids"]}
    if name in tiny.SEQUENCE_TO_SEQUENCE:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    assert torch.equal(returned(**inputs)[0], before(**inputs)[0])


@each_backbone
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_scaled_new_model_computes_what_its_backbone_does(name, norm):
    backbone = tiny.make(name, torch.float64)
    ids = make_batch(name)["input_ids"]
    inputs = {"input_ids": ids, "output_hidden_states": True}
    if name in tiny.SEQUENCE_TO_SEQUENCE:
        inputs["decoder_input_ids"] = ids
    key = "decoder_hidden_states" if name in tiny.SEQUENCE_TO_SEQUENCE else "hidden_states"
    expected = backbone(**inputs)[key]
    model = HyperLoaderModel(backbone, config_for(name, init="scaled", norm=norm)).double().eval()
    for one, other in zip(model(**inputs, task="a")[key], expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@each_backbone
def test_a_published_new_model_has_no_lora_update(name):
    """Without adapters the published initialisation leaves the backbone's function alone: lora_B is zero."""
    backbone = tiny.make(name, torch.float64)
    ids = make_batch(name)["input_ids"]
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if name in tiny.SEQUENCE_TO_SEQUENCE else {})
    expected = backbone(**inputs)[0]
    model = HyperLoaderModel(backbone, HyperLoaderConfig(tasks=TASKS, adapter_sites=())).double().eval()
    torch.testing.assert_close(model(**inputs, task="a")[0], expected, rtol=0, atol=1e-12)


def test_mode_follows_the_backbone():
    for training in (False, True):
        model = HyperLoaderModel(tiny.make("bert").train(training), HyperLoaderConfig(tasks=TASKS, reduction_factor=4))
        assert model.training is training
        assert model.generators.training is training


def test_unsupported_backbone_lists_what_is_supported():
    sizes = {"hidden_size": 8, "word_embed_proj_dim": 8, "num_attention_heads": 2, "ffn_dim": 16}
    backbone = OPTForCausalLM(OPTConfig(**sizes, num_hidden_layers=1, vocab_size=20))
    with pytest.raises(ValueError, match="model types albert, bart, .* got OPTForCausalLM.*to add one"):
        HyperLoaderModel(backbone, HyperLoaderConfig(tasks=["a"]))


def test_backbone_that_is_attached_already():
    model = make_model()
    with pytest.raises(ValueError, match="attached already: call detach"):
        HyperLoaderModel(model.backbone, model.hyperloader_config)


def test_calling_the_attached_backbone_directly_says_what_to_do():
    model = make_model()
    with pytest.raises(RuntimeError, match="call that model, which generates the weights"):
        model.backbone(**make_batch())


def test_a_failed_construction_leaves_the_backbone_as_it_was():
    backbone = tiny.make("t5")
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    with pytest.raises(ValueError, match="labels must be None for T5ForConditionalGeneration"):
        HyperLoaderModel(backbone, HyperLoaderConfig(tasks=TASKS, labels=LABELS, reduction_factor=4))
    assert list(backbone.state_dict()) == list(before)
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    HyperLoaderModel(backbone, HyperLoaderConfig(tasks=TASKS, reduction_factor=4))


@pytest.mark.parametrize("kind", ["subclass", "hook"])
def test_layers_that_do_more_than_a_linear_are_refused(kind):
    backbone = tiny.make("bert")
    query = backbone.encoder.layer[1].attention.self.query
    if kind == "subclass":
        query.__class__ = type("Quantised", (torch.nn.Linear,), {})
    else:
        query.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="must have a plain nn.Linear at encoder.layer.1.attention.self.query"):
        HyperLoaderModel(backbone, HyperLoaderConfig(tasks=TASKS, reduction_factor=4))


def test_any_failure_gives_the_backbone_back(monkeypatch):
    backbone = tiny.make("t5")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hyperloader.model.attached_model.new_parts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        HyperLoaderModel(backbone, HyperLoaderConfig(tasks=TASKS, reduction_factor=4))
    monkeypatch.undo()
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    HyperLoaderModel(backbone, HyperLoaderConfig(tasks=TASKS, reduction_factor=4))


def test_a_detached_model_says_so(tmp_path):
    model = make_model()
    model.detach()
    for call in (
        lambda: model(**make_batch(), task="a"),
        lambda: model.generate(input_ids=make_batch()["input_ids"], task="a"),
        lambda: model.save_pretrained(tmp_path),
        model.detach,
    ):
        with pytest.raises(RuntimeError, match=r"no backbone since detach\(\)"):
            call()
