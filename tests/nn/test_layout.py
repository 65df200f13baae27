"""Sites of another shape have weight heads of their own; the names in the state say which."""

import pytest
import torch
from helpers.families import TASKS, model_for

from hyperloader import HyperLoaderConfig
from hyperloader.config import LORA_SITES, MORE_LORA_SITES
from hyperloader.nn.layout import layout_of

SELF = ("self_attention.query", "self_attention.value")


def test_one_shape_has_the_names_of_the_weights():
    config = HyperLoaderConfig(tasks=["a"], rank=2, bottleneck=3)
    sites = dict.fromkeys((*config.adapter_sites, *LORA_SITES), (16, 16))
    adapters, updates = layout_of(config, 2, sites).parts
    assert updates.sites == LORA_SITES
    assert all(head == weight for part in (adapters, updates) for weight, head in part.heads.items())


def test_sites_of_equal_shape_share_heads():
    config = HyperLoaderConfig(tasks=["a"], rank=2, bottleneck=3)
    sites = dict(zip(LORA_SITES, [(16, 16), (16, 8), (16, 16), (16, 8)], strict=True))
    layout = layout_of(config, 2, sites | {"feed_forward": (32, 16), "self_attention": (16, 24)})
    assert [part.sites for part in layout.parts] == [
        ("feed_forward",), ("self_attention",), LORA_SITES[::2], LORA_SITES[1::2]
    ]  # fmt: skip
    assert layout.positions == [0, 1, 2, 4, 3, 5]
    assert layout.shapes["lora_B"] == (16, 2)
    assert layout.shapes["lora_B_16x8"] == (8, 2)
    assert layout.shapes["down_weight_24"] == (3, 24)


@pytest.mark.parametrize("generator", ["hypernetwork", "table"])
@pytest.mark.parametrize("init", ["scaled", "published"])
def test_grouped_query_attention(generator, init):
    """Query and value of a Llama: names of both shapes, and each begins as the only one would."""
    model = model_for("llama", init=init, generator=generator)
    parts = model.generators["decoder"]
    named = parts.weights if generator == "table" else parts.heads
    assert {name for name in named if "lora" in name} == {"lora_A", "lora_B", "lora_A_16x8", "lora_B_16x8"}
    if generator == "hypernetwork":
        first, second = (named[name].weight.std().item() for name in ("lora_A", "lora_A_16x8"))
        assert abs(first / second - 1) < 0.1
    for name, rows in (("query", 16), ("value", 8)):
        lora_A, lora_B = model.weights_of("b")["decoder", 1, f"self_attention.{name}"]
        assert lora_A.shape == (2, 16) and lora_B.shape == (rows, 2)
        assert lora_A.any() and not lora_B.any()


def test_every_site_of_lora():
    """On request: with an adapter behind the same layer, and slices of fused projections; mixed, and merged."""
    for name in ("llama", "phi3", "gpt2"):
        missing = {"feed_forward.gate"} if name == "gpt2" else set()
        more = tuple(site for site in MORE_LORA_SITES if "cross" not in site and site not in missing)
        model = model_for(name, lora_sites=SELF + more)
        weights = model.weights_of("a")
        assert {site for _, _, site in weights} == {"feed_forward", "self_attention", *SELF, *more}
        ids, task_ids = torch.randint(2, 50, (3, 6)), torch.tensor([0, 2, 1])
        with torch.no_grad():
            mixed = model(ids, task_ids=task_ids).logits
            for row, task in enumerate(task_ids.tolist()):
                alone = model(ids[row : row + 1], task=TASKS[task]).logits
                torch.testing.assert_close(mixed[row : row + 1], alone, rtol=0, atol=1e-10)
                merged = model.merge(TASKS[task])(ids[row : row + 1]).logits
                torch.testing.assert_close(merged, alone, rtol=0, atol=1e-10)
        model(ids, labels=ids, task_ids=task_ids).loss.backward()
        assert all(parameter.grad.any() for parameter in model.generators.parameters())


def test_a_site_that_no_layer_has():
    with pytest.raises(
        ValueError, match=r"lora_sites must name sites that GPT2LMHeadModel has .*got 'feed_forward.gate'"
    ):
        model_for("gpt2", lora_sites=("feed_forward.gate",))
