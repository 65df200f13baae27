"""The config of a stored backbone: no more layers than there are tensors for."""

import json

import pytest
import transformers

from hyperloader.checkpoints.backbone_config import read_backbone_config

BEYOND = 2**31 - 1  # layers, of which a list would take many GB


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("BertModel", "num_hidden_layers"),
        ("ModernBertModel", "num_hidden_layers"),
        ("BartForConditionalGeneration", "encoder_layers"),
        ("BartForConditionalGeneration", "decoder_layers"),
        ("T5ForConditionalGeneration", "num_decoder_layers"),
        ("AlbertModel", "num_hidden_groups"),
        ("AlbertModel", "inner_group_num"),
    ],
)
def test_more_layers_than_tensors_are_refused_before_they_are_made(kind, name, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"num_hidden_groups": 1, name: BEYOND}))
    with pytest.raises(ValueError, match=f"config.json: {name} must be from 0 to 40, for which there are tensors, got"):
        read_backbone_config(getattr(transformers, kind), path, layers=40)


def test_layers_that_share_their_tensors_may_be_more(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"num_hidden_layers": 48}))
    assert read_backbone_config(transformers.AlbertModel, path, layers=40).num_hidden_layers == 48
