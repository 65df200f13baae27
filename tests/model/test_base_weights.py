"""Weights that all tasks share, with the generated ones added to them."""

import pytest
import torch
from helpers.families import make as make_family
from helpers.tiny import make, make_batch, randomise

from hyperloader import HyperLoaderConfig, HyperLoaderModel

OPTIONS = {"tasks": ["a", "b", "c"], "reduction_factor": 4, "rank": 2, "base_weights": True}


def model_of(name="t5", **options):
    return HyperLoaderModel(make(name), HyperLoaderConfig(**OPTIONS, **options))


@torch.no_grad()
@pytest.mark.parametrize("name", ["t5", "bert", "distilbert"])
def test_a_new_model_is_its_backbone_to_the_bit(name):
    batch = make_batch(name)
    got = model_of(name, init="scaled", norm="none").eval()(**batch, task="b")
    assert torch.equal(got[0], make(name)(**batch)[0])


@pytest.mark.parametrize("options", [{}, {"hypernetwork_per_stack": False}, {"lora_sites": ()}], ids=str)
def test_mixed_batch_is_the_sentences_one_by_one(options):
    model = model_of(**options).double().eval()
    randomise(model)
    batch = make_batch("t5")
    tasks = torch.tensor([2, 0, 1, 0, 2])[: len(batch["input_ids"])]
    mixed = model(**batch, task_ids=tasks).logits
    for row, task in enumerate(tasks.tolist()):
        alone = model(**{key: tensor[row : row + 1] for key, tensor in batch.items()}, task=OPTIONS["tasks"][task])
        torch.testing.assert_close(alone.logits[0], mixed[row], rtol=0, atol=1e-10)


def test_sites_of_other_shapes_have_base_weights_of_their_own():
    model = HyperLoaderModel(make_family("llama"), HyperLoaderConfig(**OPTIONS)).double().eval()
    randomise(model)
    network = next(iter(model.generators.values()))
    assert {name: tuple(base.shape[1:]) for name, base in network.base.items() if name.startswith("lora_B")} == {
        name: part.shapes["lora_B"] for part in network.layout.parts if (name := part.heads.get("lora_B"))
    }
    ids = torch.arange(10).view(2, 5)
    mixed = model(input_ids=ids, task_ids=torch.tensor([1, 0])).logits
    torch.testing.assert_close(model(input_ids=ids[:1], task="b").logits, mixed[:1], rtol=0, atol=1e-10)
    torch.testing.assert_close(model.merge("a")(input_ids=ids[1:]).logits, mixed[1:], rtol=0, atol=1e-10)


def test_they_are_trained_once_for_all_tasks():
    model = model_of("bert", init="scaled", norm="none").train()
    batch = {name: tensor for name, tensor in make_batch("bert").items() if name != "labels"}
    model(**batch, task_ids=torch.arange(len(batch["input_ids"])) % 3).last_hidden_state.square().mean().backward()
    network = model.generators["encoder"]
    heads = {name: head.bias for name, head in network.heads.items() if head.bias is not None}
    for name, bias in heads.items():  # of which every base weight has its share
        grad = network.base[name].grad
        torch.testing.assert_close(grad.flatten(1).sum(0), bias.grad, rtol=1e-4, atol=1e-7)
    assert network.base["up_weight"].grad.abs().sum() > 0


def test_saved_loaded_merged_extended(tmp_path):
    model = model_of("bert").eval()
    randomise(model)
    batch = {name: tensor for name, tensor in make_batch("bert").items() if name != "labels"}
    expected = model(**batch, task="b").last_hidden_state
    model.save_pretrained(tmp_path / "saved")
    loaded = HyperLoaderModel.from_pretrained(tmp_path / "saved", make("bert")).eval()
    assert torch.equal(loaded(**batch, task="b").last_hidden_state, expected)
    merged = loaded.merge("b")
    torch.testing.assert_close(merged(**batch).last_hidden_state, expected, rtol=1e-4, atol=1e-5)
    before = {name: value.clone() for name, value in model.generators.state_dict().items()}
    model.add_task("d")
    assert torch.equal(model(**batch, task="b").last_hidden_state, expected)
    assert all(torch.equal(value, before[name]) for name, value in model.generators.state_dict().items())


def test_refused_without_a_hypernetwork():
    with pytest.raises(ValueError, match="base_weights must be False with generator 'table'"):
        HyperLoaderConfig(**OPTIONS, generator="table")
