"""The drop-in classes: names, sizes, values and gradients of the published code."""

import pytest
import torch
from helpers import published_oracle as oracle
from helpers.published_oracle import leaves, make_config
from helpers.published_pairs import (
    LAYERS,
    NORMS,
    TOLERANCE,
    assert_same,
    assert_same_gradients,
    both,
    gradients,
    norms,
    task,
)

from hyperloader.interop.published import AdapterLayersOneHyperNetController, MetaLayersAdapterController, MetaLoRALayer
from hyperloader.ops import use_backend


def test_parameters_of_t5_base():
    sizes = {"task_embedding_dim": 64, "projected_task_embedding_dim": 64, "task_hidden_dim": 128}
    config = make_config(**sizes, input_dim=768, reduction_factor=32)
    controller = AdapterLayersOneHyperNetController(config, 12)
    assert sum(parameter.numel() for parameter in controller.parameters()) == 3_368_152
    assert {name: tuple(tensor.shape) for name, tensor in controller.state_dict().items()} == {
        "layer_id_embeddings.weight": (12, 64),
        "adapters_block_type.weight": (6, 64),
        "task_hypernet.task_embeding_generator.0.weight": (128, 192),
        "task_hypernet.task_embeding_generator.0.bias": (128,),
        "task_hypernet.task_embeding_generator.2.weight": (64, 128),
        "task_hypernet.task_embeding_generator.2.bias": (64,),
        "LayerNorm.weight": (64,),
        "LayerNorm.bias": (64,),
        "up_sampler_hyper_net.weight_generator.0.weight": (768 * 24, 64),
        "up_sampler_hyper_net.weight_generator.0.bias": (768 * 24,),
        "up_sampler_hyper_net.bias_generator.0.weight": (768, 64),
        "up_sampler_hyper_net.bias_generator.0.bias": (768,),
        "down_sampler_hyper_net.weight_generator.0.weight": (24 * 768, 64),
        "down_sampler_hyper_net.weight_generator.0.bias": (24 * 768,),
        "down_sampler_hyper_net.bias_generator.0.weight": (24, 64),
        "down_sampler_hyper_net.bias_generator.0.bias": (24,),
        "lora_a_hyper_net.weight_generator.0.weight": (8 * 768, 64),
        "lora_b_hyper_net.weight_generator.0.weight": (768 * 8, 64),
        "post_layernorm_hypernet.weight_generator.weight": (768, 64),
        "post_layernorm_hypernet.weight_generator.bias": (768,),
        "post_layernorm_hypernet.bias_generator.weight": (768, 64),
        "post_layernorm_hypernet.bias_generator.bias": (768,),
    }


@pytest.mark.parametrize(("before", "after"), NORMS)
@pytest.mark.parametrize("condition_norm", [True, False])
def test_names(before, after, condition_norm):
    ours, theirs = both(unique_hyper_net_layer_norm=condition_norm, **norms(before, after))
    shapes = [{name: tensor.shape for name, tensor in one.state_dict().items()} for one in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_a_new_model_is_drawn_as_published():
    controller = AdapterLayersOneHyperNetController(make_config(input_dim=512), 4)
    state = controller.state_dict()
    assert 0.009 < state["up_sampler_hyper_net.weight_generator.0.weight"].std() < 0.011
    assert 0.007 < state["task_hypernet.task_embeding_generator.0.weight"].std() < 0.013
    assert 0.5 < state["layer_id_embeddings.weight"].std() < 1.5
    bound = state["lora_a_hyper_net.weight_generator.0.weight"].shape[1] ** -0.5
    assert 0.95 * bound < state["lora_a_hyper_net.weight_generator.0.weight"].abs().max() <= bound
    assert not state["lora_b_hyper_net.weight_generator.0.weight"].any()
    assert not any(tensor.any() for name, tensor in state.items() if name.endswith(("0.bias", "r.bias")))


@pytest.mark.parametrize(("before", "after"), NORMS)
@pytest.mark.parametrize("condition_norm", [True, False])
def test_values_and_gradients(before, after, condition_norm):
    ours, theirs = both(unique_hyper_net_layer_norm=condition_norm, **norms(before, after))
    embedding = task()
    for layer in range(LAYERS):
        assert_same(ours(embedding, layer), theirs(embedding, layer))
    found, expected = (gradients(controller, embedding, "") for controller in (ours, theirs))
    assert_same_gradients(found, expected)


def test_reference_backend():
    ours, theirs = both()
    with use_backend("reference"):
        found = gradients(ours, task(), "")
    assert_same_gradients(found, gradients(theirs, task(), ""))


def test_in_double_precision():
    ours, theirs = both(dtype=torch.float64)
    embedding = task(dtype=torch.float64)
    found, expected = (gradients(controller, embedding, "") for controller in (ours, theirs))
    for name in expected:
        assert torch.allclose(found[name], expected[name], rtol=1e-11, atol=1e-11), name


@pytest.mark.parametrize("fields", ["feed_forward", "self_attention", "lora_query", "lora_cross_value", "lora_"])
@pytest.mark.parametrize("layers", [range(LAYERS), [1], [2, 0]])
def test_gradients_of_a_part(fields, layers):
    """What is not used gets no gradient, or zeros."""
    ours, theirs = both()
    found, expected = (gradients(controller, task(), fields, layers) for controller in (ours, theirs))
    assert_same_gradients(found, expected)


@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (2, 3)])
def test_embeddings_of_any_shape(shape):
    ours, theirs = both()
    embedding = task()
    assert_same(ours(embedding.detach().view(shape), 1), theirs(embedding, 1))


def test_half_precision():
    ours, theirs = both(dtype=torch.bfloat16)
    found, expected = leaves(ours(task(dtype=torch.bfloat16), 2)), leaves(theirs.double()(task().double(), 2))
    assert found["feed_forward.up.weight"].dtype == torch.bfloat16
    assert torch.allclose(found["lora_query.a"].double(), expected["lora_query.a"], rtol=0.1, atol=0.1)


def test_autocast_does_not_reach_what_is_generated():
    ours, theirs = both(unique_hyper_net_layer_norm=False)
    embedding = task()
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(embedding, 0)
    assert_same(found, theirs(embedding, 0))


@pytest.mark.parametrize("non_linearity", [*oracle.ACTIVATIONS, "Swish"])
@pytest.mark.parametrize(("before", "after"), NORMS)
def test_adapter(before, after, non_linearity):
    config = make_config(non_linearity=non_linearity, **norms(before, after))
    ours, theirs = both(**norms(before, after))
    x = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
    results = []
    pairs = ((ours, MetaLayersAdapterController(config)), (theirs, oracle.MetaLayersAdapterController(config)))
    for controller, adapter in pairs:
        assert not list(adapter.parameters())
        embedding = task()
        y = adapter(x, controller(embedding, 1).feed_forward)
        y = adapter(y, controller(embedding, 2).self_attention)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, embedding])))
    for found, expected in zip(*results, strict=True):
        assert torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * expected.abs().max().item())


def test_adapter_takes_weights_of_the_published_code():
    config = make_config()
    _, theirs = both()
    weights, x = theirs(task(), 0).feed_forward, torch.randn(4, 16)
    kinds = (MetaLayersAdapterController, oracle.MetaLayersAdapterController)
    found, expected = (kind(config)(x, weights) for kind in kinds)
    assert torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_lora():
    x, a, b = (torch.randn(shape, requires_grad=True) for shape in ((2, 3, 16), (8, 16), (16, 8)))
    results = []
    for layer in (MetaLoRALayer(), oracle.MetaLoRALayer()):
        y = layer(x, a, b)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, a, b])))
    for found, expected in zip(*results, strict=True):
        assert torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * expected.abs().max().item())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"reduction_factor": 17}, ValueError, r"config.reduction_factor must be at most input_dim \(16\), got 17"),
        ({"reduction_factor": 0}, ValueError, "config.reduction_factor must be at least 1, got 0"),
        ({"input_dim": 16.0}, TypeError, "config.input_dim must be a whole number, got 16.0"),
        ({"task_hidden_dim": True}, TypeError, "config.task_hidden_dim must be a whole number, got True"),
        ({"unique_hyper_net_layer_norm": 1}, TypeError, "unique_hyper_net_layer_norm must be True or False, got 1"),
    ],
)
def test_unsupported_configurations(changes, error, message):
    with pytest.raises(error, match=message):
        AdapterLayersOneHyperNetController(make_config(**changes), 2)


@pytest.mark.parametrize(("before", "after"), NORMS)
def test_conditional_layer_norm_is_not_read(before, after):
    """False is the published default, and its class generates the norms all the same."""
    ours, theirs = both(conditional_layer_norm=False, **norms(before, after))
    assert_same(ours(task(), 0), theirs(task(), 0))
    config = make_config(**norms(before, after))
    del config.conditional_layer_norm
    assert AdapterLayersOneHyperNetController(config, 2).state_dict().keys() == ours.state_dict().keys()


def test_swish_is_the_default_activation():
    config = make_config()
    del config.non_linearity
    weights, x = both()[0](task(), 0).feed_forward, torch.randn(4, 16)
    found = MetaLayersAdapterController(config)(x, weights)
    expected = MetaLayersAdapterController(make_config(non_linearity="swish"))(x, weights)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["task_embedding_dim", "device", "add_layer_norm_after_adapter"])
def test_missing_attribute(name):
    config = make_config()
    delattr(config, name)
    with pytest.raises(AttributeError, match=f"config must have the attribute {name}, got a SimpleNamespace"):
        AdapterLayersOneHyperNetController(config, 2)


def test_bad_arguments():
    controller, _ = both()
    for layer in (-1, LAYERS):
        with pytest.raises(IndexError, match=f"layer_id must be from 0 to 2, got {layer}"):
            controller(task(), layer)
    with pytest.raises(TypeError, match="layer_id must be a whole number, got 1.0"):
        controller(task(), 1.0)
    with pytest.raises(ValueError, match=r"task_embedding must hold 6 numbers, got shape \(7,\)"):
        controller(torch.zeros(7), 0)
    with pytest.raises(TypeError, match="task_embedding must be a tensor, got 'atis'"):
        controller("atis", 0)
    with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
        AdapterLayersOneHyperNetController(make_config(), 0)
    with pytest.raises(ValueError, match="config.non_linearity must be one of gelu, .* got 'tanh'"):
        MetaLayersAdapterController(make_config(non_linearity="tanh"))
    adapter = MetaLayersAdapterController(make_config())
    with pytest.raises(ValueError, match=r"inputs must have shape \(..., 16\), got \(2, 8\)"):
        adapter(torch.zeros(2, 8), controller(task(), 0).feed_forward)
    without, _ = both(**norms(False, False))
    with pytest.raises(ValueError, match="adapter_weights.post_norm must be given for this configuration, got None"):
        adapter(torch.zeros(2, 16), without(task(), 0).feed_forward)


def test_layer_given_as_a_tensor():
    ours, theirs = both()
    assert_same(ours(task(), torch.tensor(2)), theirs(task(), 2))


def test_state_dict_is_checked():
    controller, _ = both()
    state = controller.state_dict()
    del state["LayerNorm.bias"]
    with pytest.raises(RuntimeError, match="LayerNorm.bias"):
        controller.load_state_dict(state)
