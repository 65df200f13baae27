"""Which layers are which sites: on every family, with a head around the base model too."""

import pytest
import torch
from helpers import families, tiny
from torch import nn
from transformers import BertConfig, BertForTokenClassification

from hyperloader.backbones import find_norms, find_stacks
from hyperloader.config import ADAPTER_SITES

ENCODER = {"feed_forward", "self_attention", "self_attention.query", "self_attention.value"}
CROSS = {"cross_attention.query", "cross_attention.value"}


@pytest.mark.parametrize("name", tiny.BACKBONES)
def test_sites_are_the_layers_that_they_name(name):
    backbone = tiny.make(name)
    stacks = {stack.name: stack for stack in find_stacks(backbone)}
    decoder = name in tiny.SEQUENCE_TO_SEQUENCE
    assert set(stacks) == ({"encoder", "decoder"} if decoder else {"encoder"})
    found = []
    for stack in stacks.values():
        for sites in stack.layers:
            assert set(sites) == (ENCODER | CROSS if stack.name == "decoder" else ENCODER)
            layers = {site: backbone.get_submodule(path) for site, path in sites.items()}
            assert all(isinstance(layer, nn.Linear) for layer in layers.values())
            assert layers["feed_forward"].in_features == 32, "the second layer of the feed-forward block"
            found += layers.values()
    assert len(set(map(id, found))) == len(found)


def test_number_of_layers_and_norms_of_t5():
    backbone = tiny.make("t5")
    assert [len(stack.layers) for stack in find_stacks(backbone)] == [3, 2]
    assert len(find_norms(backbone)) == 3 * 2 + 1 + 2 * 3 + 1


def test_a_head_around_the_base_model_is_seen_through():
    config = BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=1, vocab_size=9)
    backbone = BertForTokenClassification(config)
    (stack,) = find_stacks(backbone)
    assert stack.layers[0]["self_attention"] == "bert.encoder.layer.0.attention.output.dense"


@pytest.mark.parametrize("name", ["gpt2", "phi3", "modernbert"])
def test_slices_of_a_fused_projection_are_all_of_it(name):
    backbone = families.make(name)
    (stack,) = find_stacks(backbone)
    for layer, sites in enumerate(stack.layers):
        for path in {sites[site] for site in stack.slices}:
            rows = sorted(
                stack.rows(backbone, layer, site)
                for site, one in sites.items()
                if one == path and site not in ADAPTER_SITES
            )
            assert [start for start, _ in rows[1:]] == [stop for _, stop in rows[:-1]]
            assert (rows[0][0], rows[-1][1]) == (
                0,
                backbone.get_submodule(path)(torch.zeros(1, 1, 16).double()).shape[-1],
            )
