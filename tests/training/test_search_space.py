"""What a search chooses from: everything that is listed is checked before anything is trained."""

import pytest

from hyperloader.training.search_space import search_space


def test_all_combinations_in_order_and_their_folders(settings, tmp_path):
    over = {"training.learning_rate": ["1e-3", 3e-3], "model.rank": [4, 8], "method": ["hyperloader"]}
    space = search_space(settings(), over)
    assert space.size == 4
    found = [space.run(values, tmp_path / space.name(values)) for values in space.combinations()]
    assert [(one.options.learning_rate, one.model["rank"]) for one in found] == [
        (0.001, 4), (0.001, 8), (0.003, 4), (0.003, 8)
    ]  # fmt: skip
    assert found[0].output == str(tmp_path / "method=hyperloader,rank=4,learning_rate=0.001")
    assert found[0].options.steps == settings().options.steps
    other = search_space(settings(), {key: over[key] for key in reversed(over)} | {"model.rank": [8, 16]})
    assert other.name({"training.learning_rate": 0.001, "model.rank": 4, "method": "hyperloader"}) == (
        "method=hyperloader,rank=4,learning_rate=0.001"
    )
    assert not other.holds({"training.learning_rate": 0.001, "model.rank": 4, "method": "hyperloader"})
    assert other.holds({"training.learning_rate": 0.001, "model.rank": 16, "method": "hyperloader"})


def test_folders_have_plain_names_of_their_own(settings, bert, tmp_path):
    sites = [["self_attention.query"], ["self_attention.query", "self_attention.value"], []]
    backbones = [str(bert), str(tmp_path)]
    space = search_space(settings(), {"model.lora_sites": sites, "backbone": backbones, "seed": [0, 1]})
    names = [space.name(values) for values in space.combinations()]
    assert len(set(names)) == space.size == 12
    assert all(len(name) <= 160 and "/" not in name and not {*" \"'[]"} & {*name} for name in names)


@pytest.mark.parametrize(
    ("over", "parts"),
    [
        ({}, ["over must name at least one key"]),
        ({"seed": []}, ["over seed must list at least one value, got none"]),
        ({"seed": [1, 2, 1]}, ["over seed must list a value once, got 1 2 times"]),
        ({"training.learning_rate": ["1e-3", 0.001]}, ["learning_rate must list a value once, got 0.001 2 times"]),
        ({"model.bottleneck": [None, None]}, ["model.bottleneck must list a value once, got None 2 times"]),
        ({"backbone_quantization": [["x"]]}, ["backbone_quantization must be one of torchao-int8", "got ['x']"]),
        ({"training.learning_rat": [1]}, ["over training.learning_rat=1: ", "did you mean 'learning_rate'?"]),
        ({"sed": [1]}, ["over sed=1: unknown key 'sed'; did you mean 'seed'?"]),
        ({"modell.rank": [1]}, ["over modell.rank=1: ", "did you mean 'model'?"]),
        ({"seed": [1], "model.rank": [4, -4]}, ["over model.rank=-4: ", "rank must be", "got -4"]),
        ({"training.steps": [4, "many"]}, ["over training.steps=many: ", "steps must be a whole number"]),
        ({"training.patience": [0, 2], "training.select": ["best", "last"]},
         ["over training.patience=2, training.select=last: training: patience must be 0"]),
        ({"method": ["hyperloader", "hyperformer++"], "model.rank": [4, 8]},
         ["over method=hyperformer++: model.rank must not be given"]),
        ({"output": ["a", "b"]}, ["every trial has its own folder"]),
        ({"model": [{}, {}]}, ["over must name one key of model, as model.NAME"]),
        ({"tasks": ["a", "b"]}, ["over must not name tasks: scores of other sentences"]),
        ({"training.eval_sentences": [5, 9]}, ["over must not name training.eval_sentences"]),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_said(settings, over, parts):
    with pytest.raises(ValueError) as caught:
        search_space(settings(), over)
    for part in parts:
        assert part in str(caught.value)
