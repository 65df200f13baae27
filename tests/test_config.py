"""HyperLoaderConfig: what it holds, its way through JSON, and what it refuses."""

import json

import pytest

from hyperloader import HyperLoaderConfig


def test_defaults_are_the_published_sizes():
    config = HyperLoaderConfig(tasks=["atis"])
    assert (config.task_embedding_dim, config.condition_hidden_dim, config.condition_dim) == (64, 128, 64)
    assert (config.bottleneck_of(768), config.rank, config.scaling) == (24, 8, 1.0)
    assert (config.norm_eps, config.condition_eps, config.activation, config.norm) == (1e-5, 1e-6, "gelu_new", "post")
    assert config.num_positions == 6
    assert HyperLoaderConfig(tasks=["atis"], lora_sites=()).num_positions == 2
    assert HyperLoaderConfig(tasks=["atis"], lora_sites=("self_attention.key",)).num_positions == 13


def test_json_round_trip_keeps_every_field_and_any_task_name(tmp_path):
    names = ["a.b", "mit movie", "über/ß", "", "model.weight", "\n"]
    config = HyperLoaderConfig(
        tasks=names,
        labels={name: ["O", "B-x", "I-x"] for name in names},
        adapter_sites=["feed_forward"],
        lora_sites=["self_attention.value", "self_attention.query"],
        bottleneck=5,
        lora_alpha=3.5,
        norm="both",
        train_norms=False,
        init="scaled",
    )
    config.to_json(tmp_path / "config.json")
    assert HyperLoaderConfig.from_json(tmp_path / "config.json") == config
    assert HyperLoaderConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.lora_sites == ("self_attention.query", "self_attention.value"), "sites stand in order of position"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tasks": []}, ValueError, "tasks must name at least one task"),
        ({"tasks": "atis"}, TypeError, "tasks must be a list of strings, got 'atis'"),
        ({"tasks": ["a", 1]}, TypeError, "tasks must be a list of strings, got 1 in it"),
        ({"tasks": ["a", "a"]}, ValueError, "tasks must be distinct, got 'a' 2 times"),
        ({"rank": 0}, ValueError, "rank must be at least 1, got 0"),
        ({"rank": 8.0}, TypeError, "rank must be a whole number, got 8.0"),
        ({"rank": True}, TypeError, "rank must be a whole number, got True"),
        ({"bottleneck": -1}, ValueError, "bottleneck must be at least 1"),
        ({"lora_alpha": float("nan")}, ValueError, "lora_alpha must be positive and finite, got nan"),
        ({"lora_alpha": "8"}, TypeError, "lora_alpha must be a number, got '8'"),
        ({"norm_eps": 0}, ValueError, "norm_eps must be positive"),
        ({"activation": "geluu"}, ValueError, "activation must be one of .*, got 'geluu'; did you mean 'gelu'"),
        ({"norm": "after"}, ValueError, "norm must be one of post, pre, both, none, got 'after'"),
        ({"init": "zero"}, ValueError, "init must be one of"),
        ({"generator": None}, ValueError, "generator must be one of"),
        ({"adapter_sites": ("self_atention",)}, ValueError, "adapter_sites must be .* did you mean 'self_attention'"),
        ({"lora_sites": ("self_attention.keys",)}, ValueError, "lora_sites must be one of"),
        ({"train_norms": 1}, TypeError, "train_norms must be True or False, got 1"),
        ({"labels": {"a": ["O"]}}, ValueError, "labels must hold every task, got none for 'b'"),
        ({"labels": {"a": ["O"], "b": ["O"], "c": ["O"]}}, ValueError, "labels must hold only the tasks, got 'c'"),
        ({"labels": {"a": ["O"], "b": []}}, ValueError, "labels\\['b'\\] must hold at least one label"),
        ({"labels": ["O"]}, TypeError, "labels must map every task"),
        ({"rnk": 4}, ValueError, "unknown key 'rnk' in the HyperLoader config; did you mean 'rank'"),
    ],
    ids=str,
)
def test_rejects(change, error, message):
    with pytest.raises(error, match=message):
        HyperLoaderConfig.from_dict({"tasks": ["a", "b"]} | change)


def test_bottleneck_must_not_vanish():
    with pytest.raises(ValueError, match="reduction_factor must be at most the backbone's hidden size 16, got 32"):
        HyperLoaderConfig(tasks=["a"]).bottleneck_of(16)


def test_unknown_task_names_the_nearest():
    with pytest.raises(ValueError, match="task must be one of atis, snips, got 'snip'; did you mean 'snips'"):
        HyperLoaderConfig(tasks=["atis", "snips"]).task_id("snip")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"tasks": ["a"], "rank": -1}', "{}"])
def test_broken_file_is_named(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=str(path)):
        HyperLoaderConfig.from_json(path)
