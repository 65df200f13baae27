"""Which layers are which sites: on every family, with a head around the base model too."""

import pytest
from helpers import tiny
from torch import nn
from transformers import BertConfig, BertForTokenClassification

from hyperloader.backbones import find_norms, find_stacks

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
