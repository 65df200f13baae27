"""Backbones as users have them: loaded again elsewhere, a backbone is the same one, or it is refused."""

import json

import pytest
import torch
from helpers import tiny
from helpers.tiny import LABELS, TASKS, make_batch
from transformers import (
    AutoModelForMaskedLM,
    BertForMaskedLM,
    BertModel,
    DistilBertModel,
    ElectraModel,
    RobertaModel,
    T5ForConditionalGeneration,
)

from hyperloader import HyperLoaderConfig, HyperLoaderModel, TaskModel

KINDS = {"bert": BertModel, "roberta": RobertaModel, "distilbert": DistilBertModel, "electra": ElectraModel}
SAVED = ("without a pooler", "language model")


def save(name, how, folder):
    """Write a checkpoint without a pooler to ``folder``."""
    backbone = tiny.make(name)
    if how == "language model":
        backbone = AutoModelForMaskedLM.from_config(backbone.config)
    elif hasattr(backbone, "pooler"):
        backbone = type(backbone)(backbone.config, add_pooling_layer=False)
    assert not any("pooler" in key for key in backbone.state_dict())
    backbone.save_pretrained(folder)


def attach(backbone, labels=LABELS):
    model = HyperLoaderModel(backbone, HyperLoaderConfig(tasks=TASKS, labels=labels, reduction_factor=4, rank=2))
    tiny.randomise(model)
    return model.eval()


@torch.no_grad()
def hidden(model, **selected):
    output = model(make_batch("bert")["input_ids"], **selected)
    return output.get("last_hidden_state", output.get("logits"))


@pytest.mark.parametrize("how", SAVED)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("labels", [LABELS, None], ids=["labels", "plain"])
def test_what_was_newly_drawn_is_not_the_backbones(name, how, labels, tmp_path):
    save(name, how, tmp_path / "backbone")
    model = attach(KINDS[name].from_pretrained(tmp_path / "backbone"), labels)
    model.save_pretrained(tmp_path / "saved")
    expected = hidden(model, task="a")
    for backbone in (KINDS[name].from_pretrained(tmp_path / "backbone"), None):  # a pooler drawn again, or none
        loaded = HyperLoaderModel.from_pretrained(tmp_path / "saved", backbone)
        assert torch.equal(hidden(loaded, task="a"), expected)
    assert getattr(loaded.backbone, "pooler", None) is None, "what no output uses is not built"


@pytest.mark.parametrize("with_pooler", [True, False])
def test_what_an_earlier_version_saved_with_a_random_pooler(with_pooler, tmp_path):
    save("roberta", "without a pooler", tmp_path / "backbone")
    attach(RobertaModel.from_pretrained(tmp_path / "backbone")).save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "hyperloader.json"
    description = json.loads(path.read_text())
    backbone = description["backbone"]
    del backbone["dtype"], backbone["dtypes"], description["description_sha256"]
    backbone["fingerprint"] |= {"pooler.dense.weight": [[16, 16], [0.5] * 8], "pooler.dense.bias": [[16], [0.0] * 8]}
    path.write_text(json.dumps(description))
    here = RobertaModel.from_pretrained(tmp_path / "backbone", add_pooling_layer=with_pooler)
    for backbone in (here, None):
        assert HyperLoaderModel.from_pretrained(tmp_path / "saved", backbone).hyperloader_config.tasks == tuple(TASKS)


def test_a_pooler_that_is_read_belongs_to_the_backbone(tmp_path):
    tiny.make("bert").save_pretrained(tmp_path / "backbone")
    attach(BertModel.from_pretrained(tmp_path / "backbone"), None).save_pretrained(tmp_path / "saved")
    assert HyperLoaderModel.from_pretrained(tmp_path / "saved").backbone.pooler is not None
    other = BertModel.from_pretrained(tmp_path / "backbone")
    torch.nn.init.normal_(other.pooler.dense.weight)
    with pytest.raises(ValueError, match=r"wrong backbone: the values of pooler\.dense\.weight"):
        HyperLoaderModel.from_pretrained(tmp_path / "saved", other)


def test_a_checkpoint_that_lacks_a_part_is_refused(tmp_path):
    tiny.make("bert").save_pretrained(tmp_path / "bert")
    attach(BertModel.from_pretrained(tmp_path / "bert")).save_pretrained(tmp_path / "saved")
    path = tmp_path / "bert" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"lacks 16 tensors of a BertModel, such as encoder\.layer\.2\."):
        HyperLoaderModel.from_pretrained(tmp_path / "saved")


def test_a_relative_path_holds_in_every_folder(tmp_path, monkeypatch):
    tiny.make("bert").save_pretrained(tmp_path / "backbone")
    monkeypatch.chdir(tmp_path)
    model = attach(BertModel.from_pretrained("backbone"))
    model.save_pretrained("saved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert torch.equal(hidden(HyperLoaderModel.from_pretrained("../saved"), task="a"), hidden(model, task="a"))
    (tmp_path / "backbone").rename(tmp_path / "moved")
    with pytest.raises(
        ValueError, match=r"saved: its backbone .*backbone cannot be loaded .*; give backbone="
    ) as error:
        HyperLoaderModel.from_pretrained("../saved")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("when", ["loaded", "cast"])
@pytest.mark.parametrize("name", ["bert", "t5"])
def test_the_backbone_is_loaded_in_the_dtypes_that_it_had(name, when, dtype, tmp_path):
    """Of T5 loaded in float16 a part stays float32, and of one that is cast none does."""
    tiny.make(name).save_pretrained(tmp_path / "backbone")
    kind = T5ForConditionalGeneration if name == "t5" else BertModel
    at_first = dtype if when == "loaded" else torch.float32
    model = attach(kind.from_pretrained(tmp_path / "backbone", dtype=at_first), None if name == "t5" else LABELS)
    if when == "cast":
        model.to(dtype)
    model.save_pretrained(tmp_path / "saved")
    loaded = HyperLoaderModel.from_pretrained(tmp_path / "saved")
    found = {key: one.dtype for key, one in loaded.state_dict().items()}
    assert found == {key: one.dtype for key, one in model.state_dict().items() if "pooler" not in key}
    batch = make_batch(name) | ({} if name == "t5" else {"labels": None})
    with torch.no_grad():
        assert torch.equal(loaded(**batch, task="a").logits, model(**batch, task="a").logits)


def test_an_unknown_dtype_is_refused(tmp_path):
    tiny.make("bert").save_pretrained(tmp_path / "backbone")
    attach(BertModel.from_pretrained(tmp_path / "backbone")).save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "hyperloader.json"
    description = json.loads(path.read_text())
    description["backbone"]["dtype"] = "int8"
    del description["description_sha256"]
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match="saved: a backbone's dtype must be one of float64, float32"):
        HyperLoaderModel.from_pretrained(tmp_path / "saved")


def test_t5_with_a_head_of_its_own(tmp_path):
    """As T5 v1.1, Flan and mT5 are published: their class ties the head, their checkpoints do not."""
    source = tiny.make("t5-gated")
    source.lm_head.weight = torch.nn.Parameter(torch.randn_like(source.lm_head.weight))
    source.save_pretrained(tmp_path / "backbone")
    backbone = T5ForConditionalGeneration.from_pretrained(tmp_path / "backbone")
    assert backbone.lm_head.weight is not backbone.shared.weight
    model, batch = attach(backbone, None), make_batch("t5")
    model.save_pretrained(tmp_path / "saved")
    with torch.no_grad():
        expected = model(**batch, task="a").logits
        assert torch.equal(HyperLoaderModel.from_pretrained(tmp_path / "saved")(**batch, task="a").logits, expected)
        merged = model.merge("a")
        merged.save_pretrained(tmp_path / "merged")
        loaded = TaskModel.from_pretrained(tmp_path / "merged")
        assert loaded.backbone.lm_head.weight is not loaded.backbone.shared.weight
        assert torch.equal(loaded(**batch).logits, merged(**batch).logits)
        loaded.save_pretrained(tmp_path / "again")


def test_a_masked_language_model_is_saved_with_its_tied_head(tmp_path):
    torch.manual_seed(1)
    BertForMaskedLM(tiny.make("bert").config).save_pretrained(tmp_path / "backbone")
    model, batch = attach(BertForMaskedLM.from_pretrained(tmp_path / "backbone"), None), make_batch("bert")
    model.save_pretrained(tmp_path / "saved")
    merged = model.merge("a")
    merged.save_pretrained(tmp_path / "merged")
    with torch.no_grad():
        expected = model(**batch, task="a").logits
        assert torch.equal(HyperLoaderModel.from_pretrained(tmp_path / "saved")(**batch, task="a").logits, expected)
        assert torch.equal(TaskModel.from_pretrained(tmp_path / "merged")(**batch).logits, merged(**batch).logits)
