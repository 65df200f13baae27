"""Norms, similarities and the control, against what can be counted by hand."""

import math

import pytest
import torch
from helpers.families import model_for
from helpers.tiny import TASK_IDS, TASKS, make_batch, make_model

from hyperloader.training import inspection
from hyperloader.training.run import train
from hyperloader.training.saved_run import load_run, scorer

OTHERS = dict(zip(TASKS, ["b c", "ü.weight", "a"], strict=True))


def test_everything_that_the_sites_get_is_there():
    model = make_model("t5", torch.float32)
    weights = inspection.all_weights(model)
    found = model.generators["decoder"](model.task_embedding(torch.tensor([2])), grouped=False)
    for (layer, site), tensors in found.items():
        names = [name for stack, at, name in weights if (stack, at) == ("decoder", site)]
        assert len(names) == len(tensors)
        for name, tensor in zip(names, tensors, strict=True):
            torch.testing.assert_close(weights["decoder", site, name][layer, 2], tensor.flatten())
    assert {stack for stack, _, _ in weights} == {"encoder", "decoder"}
    assert weights["encoder", "feed_forward", "down_weight"].shape == (3, 3, 4 * 16)


def test_sites_of_other_shapes():
    """Query and value of a Llama: each in its own size, and compared with its like."""
    model = model_for("llama", torch.float32)
    weights = inspection.all_weights(model)
    assert weights["decoder", "self_attention.query", "lora_B"].shape == (2, 3, 16 * 2)
    assert weights["decoder", "self_attention.value", "lora_B"].shape == (2, 3, 8 * 2)
    assert inspection.task_similarity(weights)["lora_B"].shape == (3, 3)
    assert inspection.layer_similarity(weights)["decoder", "lora_B"].shape == (2, 2)
    with inspection.shuffled(model, {"a": "b", "b": "c", "c": "a"}):
        assert torch.equal(inspection.all_weights(model)["decoder", "feed_forward", "up_bias"][:, 0],
                           weights["decoder", "feed_forward", "up_bias"][:, 1])  # fmt: skip


@pytest.fixture
def weights():
    """Two layers, two tasks, two sites, in the plane."""
    east, north, west = (1.0, 0.0), (0.0, 2.0), (-3.0, 0.0)
    return {
        ("encoder", "feed_forward", "up"): torch.tensor([[east, east], [east, north]]),
        ("encoder", "self_attention", "up"): torch.tensor([[east, west], [north, (3.0, 4.0)]]),
        ("encoder", "self_attention", "zero"): torch.zeros(2, 2, 2),
    }


def test_norms(weights):
    rows = inspection.norms(weights)
    assert rows[0] == {
        "stack": "encoder", "site": "feed_forward", "weight": "up", "mean": 1.25, "least": 1.0, "most": 2.0,
    }  # fmt: skip
    assert (rows[1]["mean"], rows[1]["least"], rows[1]["most"]) == (11 / 4, 1.0, 5.0)
    assert rows[2]["mean"] == 0


def test_similarities(weights):
    tasks = inspection.task_similarity(weights)
    mean = (1 + 0 - 1 + 0.8) / 4  # of the two sites in the two layers
    torch.testing.assert_close(tasks["up"], torch.tensor([[1, mean], [mean, 1]], dtype=torch.float64))
    assert inspection.between(tasks["up"]) == pytest.approx(mean)
    layers = inspection.layer_similarity(weights)
    mean = (1 + 0 + 0 - 0.6) / 4  # of the two sites for the two tasks
    torch.testing.assert_close(layers["encoder", "up"], torch.tensor([[1, mean], [mean, 1]], dtype=torch.float64))


def test_zeros_have_no_direction(weights):
    assert inspection.task_similarity(weights)["zero"].isnan().all()
    weights["encoder", "feed_forward", "zero"] = torch.ones(2, 2, 2)
    assert (inspection.task_similarity(weights)["zero"] - 1).abs().max() < 1e-12, "pairs of zeros are left out"
    assert math.isnan(inspection.between(torch.ones(1, 1)))


def test_other_tasks_is_a_derangement():
    assert inspection.other_tasks(TASKS) == OTHERS
    assert inspection.other_tasks(["x", "y"]) == {"x": "y", "y": "x"}


@pytest.mark.parametrize("generator", ["hypernetwork", "table"])
def test_shuffled_gives_each_task_the_weights_of_another(generator):
    model = make_model("t5", torch.float64, generator=generator)
    batch = make_batch()
    before = {task: model(**batch, task=task).logits for task in TASKS}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with inspection.shuffled(model, OTHERS):
        for task in TASKS:
            assert torch.equal(model(**batch, task=task).logits, before[OTHERS[task]])
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.generators.parameters())


def test_shuffled_leaves_the_heads():
    model = make_model("bert")
    with inspection.shuffled(model, OTHERS):
        hidden = model.backbone.register_forward_hook(lambda module, inputs, output: seen.append(output))
        seen = []
        logits = model(make_batch("bert")["input_ids"], task="a").logits
        hidden.remove()
    assert torch.equal(logits, model.heads(seen[0].last_hidden_state, 0))


def test_shuffled_puts_back_after_an_error_and_refuses_a_frozen_model():
    model = make_model("bert")
    weight = model.task_embedding.weight.detach().clone()
    with pytest.raises(ZeroDivisionError), inspection.shuffled(model, OTHERS):
        raise ZeroDivisionError
    assert torch.equal(model.task_embedding.weight, weight)
    model.freeze_except_task_embedding("a")
    with pytest.raises(ValueError, match=r"call unfreeze\(\) first"), inspection.shuffled(model, OTHERS):
        pass


def score(model):
    """How many tokens of a mixed batch this model finds best that it found best as it was made."""
    batch = make_batch()
    gold, found = (one(**batch, task_ids=TASK_IDS).logits.argmax(-1) for one in (make_model(), model))
    return {"mean_f1": (gold == found).double().mean().item()}


def test_the_control_falls_where_the_model_depends_on_the_task_and_not_elsewhere():
    model = make_model()
    result = inspection.control(model, score)
    assert result["others"] == OTHERS
    assert result["right"]["mean_f1"] == 1 > result["shuffled"]["mean_f1"]
    with torch.no_grad():
        model.task_embedding.weight.copy_(model.task_embedding.weight[:1].expand(3, -1))
    result = inspection.control(model, score)
    assert result["right"] == result["shuffled"]


def test_control_of_a_run_that_writes_text(settings, t5):
    config = settings(backbone=str(t5), head="text-to-text", training={"steps": 2, "eval_steps": 2, "max_length": 40})
    train(config, progress=False, test=False)
    run = load_run(config.output)
    result = inspection.control(run.model, scorer(run, config.load_tasks(), "validation", limit=3))
    assert result["others"] == {"colours": "places", "places": "colours"}
    for scores in (result["right"], result["shuffled"]):
        assert [one["sentences"] for one in scores["tasks"].values()] == [3, 3]


def test_one_task_has_no_names_to_shuffle():
    from helpers.tiny import make

    from hyperloader import HyperLoaderConfig, HyperLoaderModel

    model = HyperLoaderModel(make("t5"), HyperLoaderConfig(tasks=["a"], reduction_factor=4))
    assert inspection.control(model, score) is None
