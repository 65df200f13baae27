"""Options whose default changes: chosen at training, afterwards, or by the version that made the run."""

from pathlib import Path

import pytest

from hyperloader.training.run import train
from hyperloader.training.run_folder import check_output, stated
from hyperloader.training.saved_run import evaluate, load_run, tag
from hyperloader.training.search import _recipe
from hyperloader.training.search_space import search_space


def test_valid_tags_are_chosen_at_training_or_afterwards(settings, tmp_path):
    """Both runs end with the same weights, that of the last step: their scores differ by how these are read alone."""
    options = {"select": "last", "label_prior": False, "learning_rate": 1e-9, "steps": 1}
    each, best = (
        settings(training={"valid_tags": valid, **options}, output=str(tmp_path / str(valid)))
        for valid in (False, True)
    )
    found = {config.output: train(config, progress=False)["test"] for config in (each, best)}
    assert found[each.output] != found[best.output]
    for config, other in ((each, best), (best, each)):
        assert evaluate(config.output) == found[config.output]
        assert evaluate(config.output, valid_tags=other is best) == found[other.output]
    sentences = [["show", "dark", "red", "rome"], ["light"]]
    for valid, config in ((False, each), (True, best)):
        of_run = list(tag(load_run(config.output), sentences, "colours"))
        assert of_run == list(tag(load_run(best.output, valid_tags=valid), sentences, "colours"))


def test_valid_tags_need_labels(settings, t5):
    with pytest.raises(ValueError, match="valid_tags must only be given for the head token-classification, got it for"):
        settings(head="text-to-text", backbone=str(t5), training={"valid_tags": True})


def test_a_run_of_before_valid_tags_is_read_as_it_was(settings, tmp_path):
    """Its file says nothing of them: it was scored by every word's label, and is finished or resumed as that run."""
    options = {"select": "last", "label_prior": False, "learning_rate": 1e-9, "steps": 1}
    before = settings(training={"valid_tags": False, **options})
    metrics, file = train(before, progress=False), Path(before.output) / "config.yaml"
    file.write_text(file.read_text().replace("  valid_tags: false\n", ""))
    assert evaluate(before.output) == metrics["test"] != evaluate(before.output, valid_tags=True)
    silent = settings(training=options)
    assert train(silent, resume=True, progress=False) == metrics
    (file.parent / "metrics.json").unlink()
    resumed = train(silent, resume=True, progress=False)
    assert resumed["config"]["training"]["valid_tags"] is True
    assert evaluate(before.output) == resumed["test"]
    with pytest.raises(ValueError, match=r"differs in training.valid_tags \(True there, False here\)"):
        train(before, resume=True, progress=False)


def test_a_run_of_before_base_weights_is_the_model_it_was(settings, tmp_path):
    """Its file says nothing of them, nor of the learning rate that was the default."""
    options = {"steps": 2, "eval_steps": 2}
    before = settings(model={"base_weights": False, "rank": 2}, training={"learning_rate": 5e-3, **options})
    metrics, file = train(before, progress=False), Path(before.output) / "config.yaml"
    text = file.read_text().replace("  base_weights: false\n", "").replace("  learning_rate: 0.005\n", "")
    file.write_text(text)
    assert "base_weights" not in text and "learning_rate" not in text
    assert evaluate(before.output) == metrics["test"]
    assert train(before, resume=True, progress=False) == metrics
    assert train(settings(model=before.model, training=options), resume=True, progress=False) == metrics
    differs = r"model.base_weights \(False there, True here\), training.learning_rate \(0.005 there, 0.003 here\)"
    with pytest.raises(ValueError, match=differs):
        train(settings(model={"rank": 2}, training=options), resume=True, progress=False)


def test_a_run_in_words_has_one_rate(settings):
    """A task's rows and the map of all words are trained side by side; so it was before heads had a rate."""
    words = {"model": {"task_condition": "description"}}
    config = settings(**words)
    assert config.options.head_base_width == stated(config).training["head_base_width"] == 0
    Path(config.output).mkdir()
    text = stated(config).to_yaml().replace("  head_base_width: 0.0\n", "")
    (Path(config.output) / "config.yaml").write_text(text)
    assert "head_base_width" not in text and check_output(config, resume=True) is None
    with pytest.raises(ValueError, match="head_base_width must be 0 with task_condition: description, got 500"):
        settings(training={"head_base_width": 500}, **words)


def test_a_search_states_the_rate_and_that_of_heads(settings):
    stated = _recipe(search_space(settings(model={"base_weights": False}), {"model.rank": [2, 4]}))["training"]
    assert (stated["head_base_width"], stated["learning_rate"]) == (960, 5e-3)
    over = {"training.head_base_width": [0, 480], "training.learning_rate": [1e-3, 2e-3]}
    assert not {"head_base_width", "learning_rate"} & {*_recipe(search_space(settings(), over))["training"]}
    for key, values in (("model.base_weights", [True, False]), ("method", ["adapter"]), ("preset", ["published"])):
        over = {key: values}
        assert _recipe(search_space(settings(), over))["training"] == settings().training  # each trial's own


@pytest.mark.parametrize(
    ("values", "rate"),
    [
        ({}, 3e-3),
        ({"model": {"base_weights": False}}, 5e-3),
        ({"preset": "published"}, 3e-4),
        ({"method": "lora"}, 1e-2),
    ],
)
def test_the_learning_rate_is_for_the_parts_by_which_a_weight_moves(settings, values, rate):
    assert settings(**values).options.learning_rate == rate
    assert settings(training={"learning_rate": 7e-4}, **values).options.learning_rate == 7e-4


def test_a_run_of_before_the_rate_of_heads_had_one_for_all(settings):
    """Its file says nothing of ``head_base_width``: it is finished as that run, by who asks for one rate."""
    options = {"steps": 2, "eval_steps": 2}
    before = settings(training={"head_base_width": 0, **options})
    metrics, file = train(before, progress=False), Path(before.output) / "config.yaml"
    text = file.read_text().replace("  head_base_width: 0.0\n", "")
    file.write_text(text)
    assert "head_base_width" not in text
    assert train(before, resume=True, progress=False) == metrics
    with pytest.raises(ValueError, match=r"differs in training.head_base_width \(0.0 there, 960.0 here\)"):
        train(settings(training=options), resume=True, progress=False)
