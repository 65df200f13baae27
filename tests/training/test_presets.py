import dataclasses

import pytest

from hyperloader.config import HyperLoaderConfig
from hyperloader.training.methods import METHODS
from hyperloader.training.presets import MODELS, PRESETS, TrainingOptions, training_options


def test_published_is_what_the_paper_did():
    options = PRESETS["published"]
    assert (options.steps, options.batch_size, options.gradient_accumulation) == (65536, 32, 4)
    assert (options.learning_rate, options.warmup_steps, options.schedule) == (3e-4, 500, "linear")
    assert (options.loss, options.label_smoothing, options.max_grad_norm) == ("sum", 0.1, 1.0)
    assert (options.sampling, options.replacement, options.temperature) == ("update", True, 10.0)
    assert (options.optimizer, options.weight_decay, options.bf16) == ("adamw_hf", 0.0, False)
    assert (options.label_prior, options.head_base_width) == (False, 0)
    assert (options.select, options.decoding, options.max_length, options.patience) == ("last", "position", 128, 0)
    config = HyperLoaderConfig(tasks=["any"], **MODELS["published"])
    assert (config.reduction_factor, config.rank, config.scaling, config.activation) == (32, 8, 1.0, "gelu_new")
    assert (config.norm, config.init, config.generator, config.train_norms) == (
        "post",
        "published",
        "hypernetwork",
        True,
    )
    assert (config.task_embedding_dim, config.condition_hidden_dim, config.condition_dim) == (64, 128, 64)


def test_warmup_below_one_is_a_share_of_the_steps():
    assert TrainingOptions(steps=1000, warmup=0.06).warmup_steps == 60
    assert TrainingOptions(steps=1000, warmup=1).warmup_steps == 1
    assert TrainingOptions(warmup=0).warmup_steps == 0


def test_overrides_win_over_preset_and_method():
    assert training_options("default", "full").learning_rate != training_options("default", "lora").learning_rate
    assert training_options("default", "full", {"learning_rate": 0.5}).learning_rate == 0.5
    for method in METHODS:
        assert training_options("published", method).learning_rate == 3e-4


def test_numbers_may_be_strings_as_yaml_reads_them():
    assert TrainingOptions(learning_rate="1e-3").learning_rate == 1e-3


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(
        ValueError, match="preset must be one of default, published, got 'publish'; did you mean 'published'"
    ):
        training_options("publish", "full")
    with pytest.raises(ValueError, match="unknown training option 'step'; did you mean 'steps'"):
        training_options("default", "full", {"step": 3})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("steps", 1.5),
        ("steps", True),
        ("batch_size", "many"),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", "fast"),
        ("warmup", -1),
        ("temperature", 0),
        ("label_smoothing", 1.0),
        ("loss", "max"),
        ("schedule", "step"),
        ("sampling", None),
        ("replacement", "yes"),
        ("optimizer", "adam"),
        ("select", "first"),
        ("decoding", "words"),
        ("bf16", 1),
        ("patience", -1),
    ],
)
def test_bad_values_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be "):
        dataclasses.replace(TrainingOptions(), **{name: value})


def test_patience_needs_scores_on_the_way():
    with pytest.raises(ValueError, match="patience must be 0 with select: last"):
        training_options("published", "hyperloader", {"patience": 3})
