"""What no tensor tells: read from the arguments of the training, or assumed and said so."""

import json

import pytest
import torch
from helpers import published_oracle as oracle
from helpers.published_t5 import PublishedT5, classes

from hyperloader.interop.published import load_published_checkpoint

SAID = {"non_linearity": "relu", "unfreeze_layer_norms": False, "unfreeze_lm_head": False}


@pytest.fixture(scope="module")
def state():
    return PublishedT5(classes(oracle), non_linearity="relu").checkpoint()


def write(folder, state, arguments=None, into=None):
    """A run's folder with its arguments, and the checkpoint of a step in it; returns that checkpoint's folder."""
    inner = folder / (into or ".")
    inner.mkdir(exist_ok=True)
    torch.save(state, inner / "pytorch_model.bin")
    if arguments is not None:
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        (folder / "arguments_results.json").write_text(text)
    return inner


@pytest.mark.parametrize("into", [None, "checkpoint-65000"])
def test_read(tmp_path, state, recwarn, into):
    model = load_published_checkpoint(write(tmp_path, state, SAID | {"tasks": ["atis"]}, into))
    assert (model.hyperloader_config.activation, model.hyperloader_config.train_norms) == ("relu", False)
    assert not [warning for warning in recwarn if "assumed" in str(warning.message)]


def test_another_folder_around_is_not_asked(tmp_path, state):
    with pytest.warns(UserWarning, match="no arguments_results.json beside"):
        model = load_published_checkpoint(write(tmp_path, state, SAID, "elsewhere"))
    assert model.hyperloader_config.activation == "gelu_new"


def test_assumed(tmp_path, state):
    with pytest.warns(UserWarning, match="assumed non_linearity='gelu_new', unfreeze_layer_norms=True, unf") as found:
        model = load_published_checkpoint(write(tmp_path, state))
    (warning,) = found
    assert "\n" not in str(warning.message)
    assert warning.filename == __file__
    assert (model.hyperloader_config.activation, model.hyperloader_config.train_norms) == ("gelu_new", True)


def test_what_the_file_leaves_out_is_assumed(tmp_path, state):
    with pytest.warns(
        UserWarning, match="arguments_results.json does not tell all: assumed unfreeze_layer_norms=True, "
    ):
        model = load_published_checkpoint(write(tmp_path, state, {"non_linearity": "relu"}))
    assert model.hyperloader_config.activation == "relu"


def test_given(tmp_path, state, recwarn):
    model = load_published_checkpoint(write(tmp_path, state), activation="swish", train_norms=False)
    assert (model.hyperloader_config.activation, model.hyperloader_config.train_norms) == ("silu", False)
    assert not list(recwarn)


def test_a_trained_head_is_warned_of(tmp_path, state):
    with pytest.warns(UserWarning, match="unfreeze_lm_head is true: .* its weights are read, and are frozen here"):
        load_published_checkpoint(write(tmp_path, state, SAID | {"unfreeze_lm_head": True}))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (SAID, {"activation": "gelu"}, "activation must be 'relu' as .*arguments_results.json says, got 'gelu'"),
        (SAID, {"train_norms": True}, "train_norms must be False as .*arguments_results.json says, got True"),
        (SAID | {"non_linearity": "tanh"}, {}, "arguments_results.json: non_linearity must be one of .*, got 'tanh'"),
        (SAID | {"unfreeze_lm_head": 1}, {}, "arguments_results.json: unfreeze_lm_head must be true or false, got 1"),
        ("{", {}, "arguments_results.json: not a JSON file"),
    ],
)
def test_refused(tmp_path, state, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        load_published_checkpoint(write(tmp_path, state, arguments), **options)


def test_a_switch_of_another_type(tmp_path, state):
    with pytest.raises(TypeError, match="train_norms must be True or False, got 1"):
        load_published_checkpoint(write(tmp_path, state, SAID), train_norms=1)
