"""The hypernetwork: what the formula says, how it is initialised, and how few operators it takes."""

import math

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from hyperloader import HyperLoaderConfig
from hyperloader.config import ADAPTER_SITES, LORA_SITES, POSITIONS
from hyperloader.nn.hypernetwork import Hypernetwork
from hyperloader.nn.layout import layout_of

ENCODER_SITES = ("feed_forward", "self_attention", "self_attention.query", "self_attention.value")


SITES = ADAPTER_SITES + LORA_SITES


def make(num_layers=3, hidden=32, sites=SITES, **options):
    config = HyperLoaderConfig(tasks=["a", "b"], **{"reduction_factor": 4, "rank": 2} | options)
    return Hypernetwork(config, layout_of(config, num_layers, dict.fromkeys(sites, (hidden, hidden))), num_layers)


def expected_weight(network, head, task_embedding, layer, site):
    """One weight, straight from the formula of the specification."""
    parts = network.condition
    inputs = torch.cat(
        [task_embedding, parts.layer_embedding.weight[layer], parts.position_embedding.weight[POSITIONS[site]]]
    )
    hidden = functional.relu(parts.first.weight @ inputs * parts.scales[0] + parts.first.bias)
    condition = functional.layer_norm(
        parts.second.weight @ hidden * parts.scales[1] + parts.second.bias,
        (64,),
        parts.norm.weight,
        parts.norm.bias,
        1e-6,
    )
    condition = condition * network.condition_scale
    linear = network.heads[head]
    generated = linear.weight @ condition + (0 if linear.bias is None else linear.bias)
    generated = generated.view(network.layout.shapes[head])
    if not network.base:
        return generated
    (part,) = (part for part in network.layout.parts if site in part.sites)
    return network.base[head][part.sites.index(site) * network.layout.num_layers + layer] + generated


@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize("init", ["published", "scaled"])
def test_every_weight_is_the_formula(init, base):
    network = make(init=init, base_weights=base).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.5)
    tasks = torch.randn(2, 64, dtype=torch.float64)
    grouped = network(tasks, grouped=True)
    alone = network(tasks[1:], grouped=False)
    assert set(grouped) == {(layer, site) for layer in range(3) for site in SITES}
    for (layer, site), weights in grouped.items():
        (part,) = (part for part in network.layout.parts if site in part.sites)
        for head, weight, single in zip(part.heads.values(), weights, alone[layer, site], strict=True):
            for task in range(2):
                expected = expected_weight(network, head, tasks[task], layer, site)
                torch.testing.assert_close(weight[task], expected, rtol=0, atol=1e-12)
            torch.testing.assert_close(single, weight[1], rtol=0, atol=1e-12)


def test_nothing_is_generated_for_sites_that_a_stack_lacks():
    network = make(sites=ENCODER_SITES)
    assert {site for _, site in network(torch.randn(1, 64), grouped=False)} == set(ENCODER_SITES)
    assert network.condition.position_embedding.num_embeddings == 6, "the rows are parameters all the same"


def test_published_initialisation():
    network = make(num_layers=12, hidden=768, reduction_factor=32, rank=8)
    for name in ("down_weight", "up_weight", "norm_weight", "norm_bias"):
        weight = network.heads[name].weight
        assert abs(weight.std().item() - 0.01) < 2e-4, name
        assert abs(weight.mean().item()) < 2e-4, name
        assert not network.heads[name].bias.any()
    bound = 1 / math.sqrt(64)  # kaiming-uniform with a = sqrt(5): bound sqrt(6 / ((1 + 5) fan_in))
    lora_A = network.heads["lora_A"].weight
    assert 0.99 * bound < lora_A.abs().max().item() <= bound
    assert abs(lora_A.std().item() - bound / math.sqrt(3)) < 1e-3
    assert not network.heads["lora_B"].weight.any()
    assert network.heads["lora_A"].bias is None
    assert network.heads["lora_B"].bias is None
    for linear in (network.condition.first, network.condition.second):
        assert abs(linear.weight.std().item() - 0.01) < 4e-4
        assert not linear.bias.any()
    assert abs(network.condition.layer_embedding.weight.std().item() - 1) < 0.06


@pytest.mark.parametrize("hidden", [32, 768])
@pytest.mark.parametrize("condition_dim", [16, 64])
def test_scaled_initialisation_generates_weights_of_a_fresh_layer(hidden, condition_dim):
    network = make(num_layers=4, hidden=hidden, init="scaled", condition_dim=condition_dim)
    weights = network(torch.randn(1, 64), grouped=False)
    down = torch.stack([weights[layer, "feed_forward"][0] for layer in range(4)])
    assert abs(down.std().item() * math.sqrt(hidden) - 1) < 0.15
    norm_weight, norm_bias = weights[0, "feed_forward"][4:6]
    assert not norm_weight.any()
    assert not norm_bias.any()
    assert not weights[0, "self_attention.query"][1].any()


@pytest.mark.parametrize("sizes", [{"condition_dim": 16}, {"condition_dim": 256}, {"rank": 16}, {"bottleneck": 64}])
def test_one_adam_step_moves_a_scaled_generated_weight_by_the_learning_rate(sizes):
    """The claim of the parametrisation: whatever the sizes, generated weights move as weights trained directly do."""
    network = make(num_layers=1, hidden=64, init="scaled", lora_sites=(), **sizes)
    task = torch.randn(1, 64)
    before = [weight.detach().clone() for weight in network(task, grouped=False)[0, "feed_forward"]]
    heads = [parameter for head in network.heads.values() for parameter in head.parameters()]
    optimizer = torch.optim.Adam(heads, lr=1e-3)
    sum(weight.sum() for weight in network(task, grouped=False)[0, "feed_forward"]).backward()
    optimizer.step()
    after = network(task, grouped=False)[0, "feed_forward"]
    moved = torch.cat([(one - other).abs().flatten() for one, other in zip(after, before, strict=True)])
    assert 1.5e-3 < moved.mean().item() < 2.5e-3, "the head's weight moves it by lr, its bias by lr again"


@pytest.mark.parametrize("tasks", [1, 8, 64])
@pytest.mark.parametrize("sizes", [{"hidden": 128}, {"hidden": 768}, {"hidden": 128, "rank": 64}], ids=str)
def test_coordinates(sizes, tasks):
    """Everything trained at once, whatever width, rank and number of tasks: a generated weight moves by about the rate
    a step; those of LoRA, whose heads have no bias, by less."""
    rate, network = 1e-3, make(init="scaled", **sizes)
    embedding = torch.randn(tasks, 64, requires_grad=True)
    optimizer = torch.optim.Adam([embedding, *network.parameters()], lr=rate)

    def generated():
        every = network(embedding, grouped=True)
        return {(site, i): tensor for (_, site), tensors in every.items() for i, tensor in enumerate(tensors)}

    directions = {key: torch.randn_like(tensor) for key, tensor in generated().items()}
    for _ in range(3):
        before = generated()
        optimizer.zero_grad()
        sum((tensor * directions[key]).sum() for key, tensor in before.items()).backward()
        optimizer.step()
        moved = {key: (one - before[key]).abs().mean().item() / rate for key, one in generated().items()}
        assert max(moved.values()) < 2.5, moved
        assert all(by > 0.8 for (site, _), by in moved.items() if site not in LORA_SITES), moved


def test_scaled_conditions_are_centred_and_move_by_the_learning_rate():
    """Before its layer norm: whatever the sizes, one step of Adam changes a condition of unit deviation by some lr."""
    for sizes in ({}, {"task_embedding_dim": 16}, {"condition_hidden_dim": 1024}):
        condition = make(num_layers=6, init="scaled", **sizes).condition
        tasks = torch.randn(7, sizes.get("task_embedding_dim", 64))
        before = condition.before_norm(tasks)
        assert 0.5 < before.std().item() < 1.5
        assert before.mean((0, 1, 2)).norm().item() < 0.5 * before.norm(dim=-1).mean().item()
        optimizer = torch.optim.Adam(condition.parameters(), lr=1e-3)
        before.square().sum().backward()
        optimizer.step()
        moved = (condition.before_norm(tasks) - before).abs().mean().item()
        assert moved < 20e-3, moved


class CountOperators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def test_one_stack_of_t5_base_takes_few_operators():
    """At most 800 operators, forward and backward, one task; generation weight by weight takes 31,806."""
    network = make(num_layers=12, hidden=768, reduction_factor=32, rank=8)
    task = torch.randn(1, 64, requires_grad=True)
    with CountOperators() as counter:
        weights = [weight for site in network(task, grouped=False).values() for weight in site]
        torch.autograd.backward(weights, [torch.ones_like(weight) for weight in weights])
    assert counter.count <= 400, counter.count
