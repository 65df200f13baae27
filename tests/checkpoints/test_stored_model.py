"""save_pretrained and from_pretrained: only what is trained, checked on the way in, and never half-written."""

import errno
import json
import os
import shutil

import pytest
import torch
from helpers import tiny
from helpers.tiny import LABELS, TASKS, make_batch, make_model
from safetensors.torch import load_file, save_file

from hyperloader import HyperLoaderConfig, HyperLoaderModel
from hyperloader.checkpoints.fingerprints import fingerprint_of

FILES = ["README.md", "hyperloader.json", "model.safetensors"]
each_name = pytest.mark.parametrize("name", ["t5", "bert"])


def logits(model, name="t5"):
    with torch.no_grad():
        return model.eval()(input_ids=make_batch(name)["input_ids"], task=TASKS[2], **_decoder(name)).logits


def _decoder(name):
    return {"decoder_input_ids": make_batch(name)["labels"]} if name == "t5" else {}


@pytest.fixture
def saved(tmp_path):
    model = make_model(dtype=torch.float32)
    model.save_pretrained(tmp_path / "saved")
    return model, tmp_path / "saved"


@each_name
@pytest.mark.parametrize("generator", ["hypernetwork", "table"])
def test_round_trip(tmp_path, name, generator):
    model = make_model(name, torch.float32, generator=generator)
    model.save_pretrained(tmp_path)
    loaded = HyperLoaderModel.from_pretrained(tmp_path, tiny.make(name))
    assert loaded.hyperloader_config == model.hyperloader_config
    assert torch.equal(logits(loaded, name), logits(model, name))


def test_round_trip_with_one_hypernetwork_for_both_stacks(tmp_path):
    model = make_model(dtype=torch.float32, hypernetwork_per_stack=False)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert sum(tensor.numel() for tensor in tensors.values()) == model.trainable_parameters()
    assert torch.equal(logits(HyperLoaderModel.from_pretrained(tmp_path, tiny.make("t5"))), logits(model))


def test_fingerprint_of_a_large_tensor_stays_inside_it():
    """Beyond 2**24 numbers float32 cannot count places any more."""
    backbone = torch.nn.Linear(4099, 4099, bias=False, device="meta").to_empty(device="cpu")
    torch.nn.init.zeros_(backbone.weight)
    with torch.no_grad():
        backbone.weight[-1, -1] = 7
    assert fingerprint_of(backbone, (), with_heads=False)["weight"][1][-1] == 7


def test_holds_only_what_is_trained(saved):
    model, folder = saved
    tensors = load_file(folder / "model.safetensors")
    assert sum(tensor.numel() for tensor in tensors.values()) == model.trainable_parameters()
    assert sorted(path.name for path in folder.iterdir()) == FILES


def test_loads_the_backbone_that_it_names(tmp_path):
    tiny.make("bert").save_pretrained(tmp_path / "backbone")
    from transformers import BertModel

    backbone = BertModel.from_pretrained(tmp_path / "backbone")
    config = HyperLoaderConfig(tasks=TASKS, labels=LABELS, reduction_factor=4)
    model = HyperLoaderModel(backbone, config)
    tiny.randomise(model)
    model.save_pretrained(tmp_path / "saved")
    loaded = HyperLoaderModel.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(loaded, "bert"), logits(model, "bert"))


def test_a_backbone_in_another_precision_is_the_same_backbone(saved):
    model, folder = saved
    loaded = HyperLoaderModel.from_pretrained(folder, tiny.make("t5", torch.bfloat16))
    assert loaded.dtype == torch.bfloat16
    torch.testing.assert_close(logits(loaded).float(), logits(model), rtol=0.05, atol=0.05)


def test_other_trained_norms_are_no_other_backbone(saved):
    model, folder = saved
    backbone = tiny.make("t5")
    torch.nn.init.normal_(backbone.encoder.final_layer_norm.weight)
    assert torch.equal(logits(HyperLoaderModel.from_pretrained(folder, backbone)), logits(model))


def test_backbone_with_other_values_is_refused_and_left_alone(saved):
    _, folder = saved
    backbone = tiny.make("t5")
    with torch.no_grad():
        backbone.encoder.block[0].layer[0].SelfAttention.k.weight.mul_(1.5)
    with pytest.raises(
        ValueError, match="wrong backbone: the values of encoder.block.0.layer.0.SelfAttention.k.weight"
    ):
        HyperLoaderModel.from_pretrained(folder, backbone)
    assert all(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bert", "backbone must be a T5ForConditionalGeneration, got BertModel"),
        ("t5-gated", "wrong backbone: only the checkpoint's backbone has the tensor .*DenseReluDense.wi.weight"),
        ("t5-narrow-heads", r"wrong backbone: .* must have shape \[16, 16\], got \[12, 16\]"),
    ],
)
def test_backbone_of_another_kind_is_refused(saved, name, message):
    with pytest.raises(ValueError, match=message):
        HyperLoaderModel.from_pretrained(saved[1], tiny.make(name))


def test_missing_files(tmp_path, saved):
    with pytest.raises(
        FileNotFoundError, match="nowhere: no such folder; name a folder that save_pretrained wrote, or owner"
    ):
        HyperLoaderModel.from_pretrained(tmp_path / "nowhere", tiny.make("t5"))
    (saved[1] / "hyperloader.json").unlink()
    with pytest.raises(FileNotFoundError, match="hyperloader.json: no such file"):
        HyperLoaderModel.from_pretrained(saved[1], tiny.make("t5"))


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_tensors(saved, size):
    path = saved[1] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model.safetensors: truncated, changed, or not the file"):
        HyperLoaderModel.from_pretrained(saved[1], tiny.make("t5"))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"{}", b'{"format": 1}', b'{"format": 2}'])
def test_broken_description(saved, content):
    (saved[1] / "hyperloader.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"hyperloader.json"):
        HyperLoaderModel.from_pretrained(saved[1], tiny.make("t5"))


def test_unknown_config_key_names_the_nearest(saved):
    path = saved[1] / "hyperloader.json"
    description = json.loads(path.read_text())
    description["config"]["rnak"] = 3
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"hyperloader.json: unknown key 'rnak' .* did you mean 'rank'"):
        HyperLoaderModel.from_pretrained(saved[1], tiny.make("t5"))


def test_foreign_tensors_are_listed(saved):
    import hashlib

    path = saved[1] / "model.safetensors"
    tensors = load_file(path)
    tensors["stranger"] = tensors.pop("task_embedding.weight")
    save_file(tensors, path)
    description = json.loads((saved[1] / "hyperloader.json").read_text())
    description["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    del description["description_sha256"]
    (saved[1] / "hyperloader.json").write_text(json.dumps(description))
    backbone = tiny.make("t5")
    with pytest.raises(ValueError, match="tensors missing: task_embedding.weight; extra: stranger"):
        HyperLoaderModel.from_pretrained(saved[1], backbone)
    assert all(parameter.requires_grad for parameter in backbone.parameters()), "the backbone is free again"


def test_a_pickle_is_not_loaded(saved):
    path = saved[1] / "model.safetensors"
    torch.save({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not the file that hyperloader.json describes"):
        HyperLoaderModel.from_pretrained(saved[1], tiny.make("t5"))


@pytest.mark.parametrize("file", [1, 2], ids=["tensors", "description"])
def test_full_disk_leaves_the_old_checkpoint(saved, monkeypatch, file):
    """A full disk may show as late as in fsync, and after the first of the two files is complete."""
    model, folder = saved
    expected = logits(model)
    with torch.no_grad():
        model.task_embedding.weight.add_(1)
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == file:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        model.save_pretrained(folder)
    monkeypatch.undo()
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert torch.equal(logits(HyperLoaderModel.from_pretrained(folder, tiny.make("t5"))), expected)


def test_saving_needs_no_room_of_an_older_one(saved, tmp_path):
    model, folder = saved
    shutil.copytree(folder, tmp_path / "older")
    model.save_pretrained(folder)
    for name in FILES:
        assert (folder / name).read_bytes() == (tmp_path / "older" / name).read_bytes(), "saving is repeatable"
    assert len(list(folder.iterdir())) == 3
