"""LoRA updates to and from PEFT."""

import json

import pytest
import safetensors.torch
import torch
from helpers import families
from helpers.tiny import BACKBONES, TASKS, make, make_batch, make_model
from transformers import BertConfig, BertModel

from hyperloader import HyperLoaderConfig, HyperLoaderModel
from hyperloader.interop.peft import load_peft

peft = pytest.importorskip("peft")


def lora_only(name, **options):
    return make_model(name, labels=None, adapter_sites=(), train_norms=False, **options)


@torch.no_grad()
def states(model, name, **selected):
    batch = make_batch(name)
    batch = batch if model.config.is_encoder_decoder and "encoder" not in name else {"input_ids": batch["input_ids"]}
    return model(**batch, **selected)[-1 if "labels" in batch else 0]


@pytest.mark.parametrize("name", BACKBONES)
def test_peft_loads_what_is_exported(name, tmp_path):
    model = lora_only(name, lora_alpha=3)
    model.export_peft("b c", tmp_path)
    wrapped = peft.PeftModel.from_pretrained(make(name, torch.float64), tmp_path).double()
    batch = {"input_ids": make_batch(name)["input_ids"]}
    if hasattr(model.backbone, "lm_head"):
        batch["labels"] = make_batch("t5")["labels"]
    with torch.no_grad():
        found, expected = wrapped(**batch), model(**batch, task="b c")
        plain = make(name, torch.float64)(**batch)
    key = "logits" if "labels" in batch else "last_hidden_state"
    torch.testing.assert_close(found[key], expected[key], rtol=0, atol=1e-5)
    assert not torch.allclose(plain[key], expected[key], atol=1e-3)


MORE = {"lora_sites": ("self_attention.query", "self_attention.value", "self_attention.key", "feed_forward.down")}


@pytest.mark.parametrize("options", [{}, MORE], ids=["usual", "more"])
@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2"])
def test_decoders_there_and_back(name, options, tmp_path):
    """Shapes of grouped queries, slices of fused projections, layers whose weight is the transpose."""
    model = families.model_for(name, adapter_sites=(), train_norms=False, lora_alpha=3, **options)
    batch, key = {"input_ids": families.batch_for(model.backbone)["input_ids"]}, "logits"
    model.export_peft("b", tmp_path)
    wrapped = peft.PeftModel.from_pretrained(families.make(name), tmp_path).double()
    loaded = load_peft(families.make(name), {"b": tmp_path}).double()
    wanted = model.hyperloader_config.lora_sites
    assert loaded.hyperloader_config.lora_sites == tuple(site for site in wanted if "cross" not in site)
    with torch.no_grad():
        expected = model(**batch, task="b")[key]
        torch.testing.assert_close(wrapped(**batch)[key], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(loaded(**batch, task="b")[key], expected, rtol=0, atol=1e-5)
        assert not torch.allclose(families.make(name)(**batch)[key], expected, atol=1e-3)


@pytest.mark.parametrize("targets", [["c_attn", "c_proj"], ["c_attn"]])
def test_fused_projections_of_peft(targets, tmp_path):
    """One update of query, key and value together."""
    torch.manual_seed(3)
    config = peft.LoraConfig(r=3, target_modules=targets, fan_in_fan_out=True)
    wrapped = peft.get_peft_model(families.make("gpt2"), config)
    for parameter in wrapped.eval().parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, 0, 0.3)
    wrapped.save_pretrained(tmp_path)
    model = load_peft(families.make("gpt2"), {"a": tmp_path})
    assert "self_attention.key" in model.hyperloader_config.lora_sites
    ids = torch.randint(2, 50, (2, 5))
    with torch.no_grad():
        torch.testing.assert_close(model(ids, task="a").logits, wrapped(ids).logits, rtol=0, atol=1e-5)


def test_what_peft_cannot_hold_is_refused(tmp_path):
    model = make_model("bert")
    message = (
        r"cannot hold all of task 'a': adapters at encoder.layer.0.output.dense, .*; trained norms: 10 parameters such "
        r"as embeddings.LayerNorm.weight, .*; the token-classification head of 'a'. Export the LoRA updates alone with "
        r"lora_only=True \(--lora-only\), or everything in our own format with export_task \(--format ours\)$"
    )
    with pytest.raises(ValueError, match=message):
        model.export_peft("a", tmp_path / "a")
    assert not (tmp_path / "a").exists()
    model.export_peft("a", tmp_path / "a", lora_only=True)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    with pytest.raises(ValueError, match="has no LoRA update to export"):
        make_model("bert", lora_sites=()).export_peft("a", tmp_path / "b", lora_only=True)
    with pytest.raises(ValueError, match="task must be one of"):
        model.export_peft("d", tmp_path / "b", lora_only=True)


def test_a_refusal_of_many_layers_is_short(tmp_path):
    sizes = {"hidden_size": 32, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 10}
    backbone = BertModel(BertConfig(**sizes, num_hidden_layers=30))
    model = HyperLoaderModel(backbone, HyperLoaderConfig(tasks=["a"])).eval()
    with pytest.raises(ValueError, match="adapters at 60 layers such as encoder.layer.0") as error:
        model.export_peft("a", tmp_path / "a")
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_round_trip_of_several_tasks_in_one_batch(name, tmp_path):
    model = lora_only(name, lora_alpha=3)
    for task in TASKS:
        model.export_peft(task, tmp_path / task)
    loaded = load_peft(make(name, torch.float64), {task: tmp_path / task for task in TASKS}).double()
    task_ids = torch.tensor([0, 2, 1, 0, 2])
    batch = make_batch("t5") if name == "t5" else {"input_ids": make_batch(name)["input_ids"]}
    key = "logits" if name == "t5" else "last_hidden_state"
    with torch.no_grad():
        found, expected = loaded(**batch, task_ids=task_ids), model(**batch, task_ids=task_ids)
    torch.testing.assert_close(found[key], expected[key], rtol=0, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    loaded.save_pretrained(tmp_path / "all")
    again = HyperLoaderModel.from_pretrained(tmp_path / "all", make(name, torch.float64)).double()
    with torch.no_grad():
        torch.testing.assert_close(again(**batch, task_ids=task_ids)[key], expected[key], rtol=0, atol=1e-5)


def test_checkpoints_of_peft(tmp_path):
    """Of two ranks and scalings, one of them on the queries alone."""
    options = {"first": {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"]}}
    options["second"] = {"r": 2, "lora_alpha": 2, "target_modules": ["query"], "use_rslora": True}
    batch, expected = {"input_ids": make_batch("bert")["input_ids"]}, {}
    for task, values in options.items():
        torch.manual_seed(3)
        wrapped = peft.get_peft_model(make("bert", torch.float64), peft.LoraConfig(**values)).eval()
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, 0, 0.3)
        wrapped.save_pretrained(tmp_path / task)
        with torch.no_grad():
            expected[task] = wrapped(**batch).last_hidden_state
    model = load_peft(make("bert", torch.float64), {task: tmp_path / task for task in options})
    for task in options:
        with torch.no_grad():
            torch.testing.assert_close(model(**batch, task=task).last_hidden_state, expected[task], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, r"only plain LoRA updates of the backbone as it is can be read, got {'use_dora': True}"),
        ({"init_lora_weights": "pissa"}, r"got {'init_lora_weights': 'pissa'}"),
        ({"rank_pattern": {"query": 4}}, r"got {'rank_pattern': {'query': 4}}"),
        ({"alpha_pattern": {"query": 4}}, r"got {'alpha_pattern': {'query': 4}}"),
        ({"alora_invocation_tokens": [3]}, r"got {'alora_invocation_tokens': \[3\]}"),
        ({"of_a_later_release": {"a": 1}, "another": None}, r"got {'of_a_later_release': {'a': 1}}"),
        ({"bias": "all", "modules_to_save": ["head"]}, r"got {'bias': 'all', 'modules_to_save': \['head'\]}"),
        ({"peft_type": "IA3"}, "peft_type must be LORA, got 'IA3'"),
        ({"r": 3}, r"lora_A.weight must have shape \(3, 16\), got \(2, 16\)"),
    ],
    ids=str,
)
def test_bad_configurations(change, message, tmp_path):
    lora_only("bert").export_peft("a", tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    backbone = make("bert")
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_peft(backbone, {"a": tmp_path})
    after = backbone.state_dict()
    assert after.keys() == before.keys(), "nothing is wrapped"
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert HyperLoaderModel(backbone, lora_only("bert").hyperloader_config).backbone is backbone


def test_missing_and_extra_tensors_are_listed(tmp_path):
    lora_only("bert").export_peft("a", tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    prefix = "base_model.model.encoder.layer"
    tensors[f"{prefix}.0.attention.self.key.lora_A.weight"] = torch.zeros(2, 16)
    del tensors[f"{prefix}.1.attention.self.query.lora_B.weight"]
    safetensors.torch.save_file(tensors, path)
    message = (
        r"tensors missing: base_model.model.encoder.layer.1.attention.self.query.lora_B.weight; extra, which update no "
        r"query or value of BertModel's attentions: base_model.model.encoder.layer.0.attention.self.key.lora_A.weight"
    )
    with pytest.raises(ValueError, match=message):
        load_peft(make("bert"), {"a": tmp_path})
    with pytest.raises(FileNotFoundError, match=r"adapter_config.json: no such file"):
        load_peft(make("bert"), {"a": tmp_path / "none"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, name: tensors.update({name: tensors[name].long()}), "one of float64, .*, got torch.int64"),
        (lambda tensors, name: tensors[name].fill_(torch.nan), "must be finite, got NaN or infinity"),
        (
            lambda tensors, name: tensors.update({name.removeprefix("base_model.model."): tensors[name]}),
            "must not both",
        ),
        (lambda tensors, name: tensors.clear(), "holds no tensors"),
    ],
)
def test_bad_tensors(change, message, tmp_path):
    """The file is named, and the backbone given back."""
    lora_only("bert").export_peft("a", tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    change(tensors, next(iter(tensors)))
    safetensors.torch.save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    backbone = make("bert")
    with pytest.raises(ValueError, match=f"adapter_model.safetensors: .*{message}"):
        load_peft(backbone, {"a": tmp_path})
    path.write_bytes(b"xx")
    with pytest.raises(ValueError, match="adapter_model.safetensors: truncated or no safetensors file"):
        load_peft(backbone, {"a": tmp_path})
    with pytest.raises(TypeError, match="folders must map names of tasks to folders, got 'a folder'"):
        load_peft(backbone, "a folder")
    HyperLoaderModel(backbone, lora_only("bert").hyperloader_config)


def test_a_failure_at_the_end_gives_the_backbone_back(tmp_path, monkeypatch):
    lora_only("bert").export_peft("a", tmp_path)
    backbone = make("bert")
    monkeypatch.setattr("hyperloader.interop.peft._fill", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load_peft(backbone, {"a": tmp_path})
    HyperLoaderModel(backbone, lora_only("bert").hyperloader_config)


def test_an_adapter_of_something_else_is_not_overwritten(tmp_path):
    model = lora_only("bert")
    model.export_peft("a", tmp_path)
    model.export_peft("a", tmp_path)
    before = (tmp_path / "adapter_model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="holds the adapter of the task 'a' in adapter_config.json: choose another"):
        model.export_peft("b c", tmp_path)
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == before
    model.export_peft("b c", tmp_path, overwrite=True)
    assert (tmp_path / "adapter_model.safetensors").read_bytes() != before
    for name in ("adapter_model.bin", "adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name.replace(".", "-")).mkdir()
        (tmp_path / name.replace(".", "-") / name).write_bytes(b"foreign")
        with pytest.raises(ValueError, match=f"holds the adapter in {name}: choose another folder"):
            model.export_peft("a", tmp_path / name.replace(".", "-"))
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="safetensors: must be a folder, got a file"):
            model.export_peft("a", tmp_path / "adapter_model.safetensors", overwrite=overwrite)
