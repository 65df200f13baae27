"""Models around backbones whose linear layers torchao or bitsandbytes has quantised."""

import copy

import pytest
import torch
from helpers import families, quantized
from helpers.families import TASK_IDS, batch_for
from helpers.quantized import make, model_for, with_library
from torch import nn

from hyperloader import HyperLoaderModel, TaskModel
from hyperloader.backbones.quantization import QUANTIZATIONS, layers_of
from hyperloader.checkpoints import fingerprints
from hyperloader.interop.program import exported
from hyperloader.interop.token_classifier import token_classifier
from hyperloader.model.merging import dequantize
from hyperloader.nn.quantized import dequantized, quantized_layers
from hyperloader.nn.sites import unwrapped

each_quantization = with_library(QUANTIZATIONS)
int8 = with_library(["torchao-int8"])


def loss_of(model, **selected):
    return model(**batch_for(model.backbone), **selected).loss


@torch.no_grad()
def logits(model, **selected):
    batch = batch_for(model.backbone)
    return model(batch["input_ids"], batch["attention_mask"], **selected).logits


def gradients(model):
    model.train()
    loss_of(model, task_ids=TASK_IDS).backward()
    return {name: one.grad for name, one in model.named_parameters() if one.requires_grad}


@pytest.mark.parametrize("family", ["bert", "llama"])
@with_library(quantized.WEIGHT_ONLY)
def test_gradients_are_those_of_the_dequantised_backbone(family, quantization):
    plain = make(family, quantization)
    dequantize(plain)
    assert not layers_of(plain)
    expected = gradients(model_for(family, None, plain))
    found = gradients(model_for(family, quantization))
    assert found.keys() == expected.keys()
    for name, grad in found.items():
        assert torch.linalg.norm(grad - expected[name]) <= 1e-5 * torch.linalg.norm(expected[name]), name


@pytest.mark.parametrize("family", ["bert", "llama"])
@with_library(["torchao-int8-dynamic"])
def test_gradients_pass_layers_that_quantise_their_input(family, quantization):
    model = model_for(family, quantization)
    found, expected = gradients(model), gradients(model_for(family, None))
    for name, grad in found.items():  # about, because the inputs are rounded
        assert torch.linalg.norm(grad - expected[name]) <= 0.3 * torch.linalg.norm(expected[name]), name
    for path in model._attachment.frozen_paths:
        layer = model.backbone.get_submodule(path)
        x = torch.randn(3, layer.linear.in_features, requires_grad=True)
        grad = torch.randn(3, layer.linear.out_features)
        layer(x).backward(grad)
        assert torch.equal(x.grad, grad @ dequantized(layer.linear)), path


@each_quantization
def test_every_sentence_of_a_mixed_batch_has_its_own_update(quantization):
    model = model_for("bert", quantization, train_norms=False)
    mixed = logits(model, task_ids=TASK_IDS)
    for row, index in enumerate(TASK_IDS.tolist()):
        alone = logits(model, task=families.TASKS[index])[row]
        assert torch.allclose(mixed[row, :, : alone.shape[-1]], alone, atol=2e-5)


@each_quantization
def test_loading_merging_and_detaching(tmp_path, quantization):
    model = model_for("bert", quantization)
    before = logits(model, task="a")
    model.save_pretrained(tmp_path / "saved")
    again = HyperLoaderModel.from_pretrained(tmp_path / "saved", make("bert", quantization))
    assert torch.equal(logits(again, task="a"), before)
    assert torch.allclose(logits(model.merge("a")), before, atol=1e-6)
    merged = model.merge("a", inplace=True)
    assert torch.allclose(logits(merged), before, atol=1e-6)
    model.unmerge()
    assert torch.equal(logits(model, task="a"), before)
    loss_of(model.train(), task_ids=TASK_IDS).backward()  # after evaluation, which may have laid out weights anew
    backbone = model.detach()
    assert not [module for module in backbone.modules() if "hyperloader" in type(module).__module__]
    fresh = make("bert", quantization)
    ids = batch_for(backbone)["input_ids"]
    with torch.no_grad():
        assert torch.equal(backbone.eval()(ids)[0], fresh(ids)[0])
    assert list(backbone.state_dict()) == list(fresh.state_dict())


@each_quantization
def test_a_merged_model_without_quantised_layers(tmp_path, quantization):
    model = model_for("bert", quantization)
    kept = model.merge("a")
    with pytest.raises(
        ValueError, match=f"must have plain layers to be saved, got {quantization} at encoder.*dequantize"
    ):
        kept.save_pretrained(tmp_path / "kept")
    merged = model.merge("a", dequantize=True)
    assert not layers_of(merged.backbone) and layers_of(model.backbone)
    rounded_inputs = 1e-5 if quantization in ("torchao-int8", "torchao-int4", "bitsandbytes-nf4") else 1e-2
    assert torch.allclose(logits(merged), logits(model, task="a"), atol=rounded_inputs)
    merged.save_pretrained(tmp_path / "merged")
    assert torch.equal(logits(TaskModel.from_pretrained(tmp_path / "merged")), logits(merged))
    with pytest.raises(ValueError, match="dequantize must be False with inplace=True"):
        model.merge("a", inplace=True, dequantize=True)


@int8
def test_formats_of_others_need_plain_layers(quantization):
    model = model_for("bert", quantization, adapter_sites=())
    with pytest.raises(ValueError, match="must have plain layers to be exported, got torchao-int8 at encoder.layer.0"):
        exported(model)
    with pytest.raises(ValueError, match="must have plain layers to be a token classifier .* dequantize=True"):
        token_classifier(model.merge("a"))
    classifier = token_classifier(model.merge("a", dequantize=True))
    batch = batch_for(model.backbone)
    with torch.no_grad():
        found = classifier(batch["input_ids"], batch["attention_mask"]).logits
    assert torch.allclose(found, logits(model, task="a"), atol=1e-5)


@int8
def test_text_is_generated(quantization):
    model = model_for("llama", quantization)
    ids = torch.tensor([[5, 7, 9]])
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 5, "do_sample": False}
    text = model.generate(ids, task="a", **options)
    assert text.shape == (1, 8)
    assert torch.equal(model.merge("a").generate(ids, **options), text)


@int8
@pytest.mark.parametrize("family", ["albert", "deberta-v3", "modernbert", "phi3", "t5-gated"])
def test_other_families(tmp_path, family, quantization):
    """Shared layers, relative positions, fused projections, two stacks."""
    backbone, plain = families.make(family, torch.float32), families.make(family, torch.float32)
    for one in (backbone, plain):
        quantized.quantize(one, quantized.layers_to_quantize(one, quantization))
    dequantize(plain)
    model, expected = model_for(family, quantization, backbone), model_for(family, None, plain)
    batch = batch_for(backbone)
    with torch.no_grad():
        found, other = (one(**batch, task_ids=TASK_IDS).logits for one in (model, expected))
    finite = other.isfinite()
    assert torch.equal(found.isfinite(), finite)
    assert torch.allclose(found[finite], other[finite], rtol=1e-4, atol=1e-4 * float(other[finite].abs().max()))
    trained = [name for name, grad in gradients(expected).items() if grad is not None]
    assert [name for name, grad in gradients(model).items() if grad is not None] == trained
    model.save_pretrained(tmp_path)
    fresh = families.make(family, torch.float32)
    quantized.quantize(fresh, quantized.layers_to_quantize(fresh, quantization))
    again = HyperLoaderModel.from_pretrained(tmp_path, fresh)
    assert layers_of(again.backbone) == layers_of(model.detach())


@each_quantization
def test_a_checkpoint_quantises_the_backbone_that_it_names(tmp_path, quantization):
    make("bert", None).save_pretrained(tmp_path / "bert")
    backbone = make("bert", quantization)
    backbone.config._name_or_path = str(tmp_path / "bert")
    model = model_for("bert", quantization, backbone)
    model.save_pretrained(tmp_path / "saved")
    again = HyperLoaderModel.from_pretrained(tmp_path / "saved")
    assert layers_of(again.backbone) == layers_of(model.backbone)
    assert torch.equal(logits(again, task="c"), logits(model, task="c"))


@with_library(["bitsandbytes-int8"])
def test_a_quantisation_that_has_no_name_here(tmp_path, quantization):
    make("bert", None).save_pretrained(tmp_path / "bert")
    backbone = make("bert", quantization)
    backbone.config._name_or_path = str(tmp_path / "bert")
    backbone.encoder.layer[1].output.dense.state.threshold = 6.0
    model_for("bert", quantization, backbone).save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="cannot be quantised .*, got 'bitsandbytes-int8-up-to-6'.*; give backbone="):
        HyperLoaderModel.from_pretrained(tmp_path / "saved")


@int8
def test_a_quantised_pooler_says_nothing(tmp_path, quantization):
    model = model_for("bert", quantization)
    model.save_pretrained(tmp_path)
    backbone = make("bert", quantization)
    quantized.quantize(backbone, {"pooler.dense": quantization})
    assert torch.equal(logits(HyperLoaderModel.from_pretrained(tmp_path, backbone), task="a"), logits(model, task="a"))
    with pytest.raises(
        ValueError, match="pooler.density must be a layer of the backbone to be quantised as torchao-int8"
    ):
        quantized.quantize(backbone, {"pooler.density": quantization})


@int8
def test_another_backbone_is_refused(tmp_path, quantization):
    model_for("bert", quantization).save_pretrained(tmp_path / "int8")
    layer = "encoder.layer.0.attention.output.dense"
    with pytest.raises(ValueError, match=f"wrong backbone: {layer} must be torchao-int8, .* got one that is not quan"):
        HyperLoaderModel.from_pretrained(tmp_path / "int8", make("bert", None))
    with pytest.raises(ValueError, match=f"{layer} must be torchao-int8, .* got one that is torchao-int8-dynamic"):
        HyperLoaderModel.from_pretrained(tmp_path / "int8", make("bert", "torchao-int8-dynamic"))
    model_for("bert", None).save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match=f"{layer} must be not quantised, .* got one that is torchao-int8"):
        HyperLoaderModel.from_pretrained(tmp_path / "plain", make("bert", quantization))
    other = make("bert", None)
    with torch.no_grad():
        other.encoder.layer[1].intermediate.dense.weight.neg_()
    quantized.quantize(other, layers_of(make("bert", quantization)))
    with pytest.raises(ValueError, match="the values of encoder.layer.1.intermediate.dense.weight are others"):
        HyperLoaderModel.from_pretrained(tmp_path / "int8", other)


@each_quantization
def test_a_new_task_and_exports(tmp_path, quantization):
    model = model_for("bert", quantization, train_norms=False)
    before = logits(model, task="a")
    model.add_task("new", labels=["O", "B-n"])
    assert torch.equal(logits(model, task="a"), before)
    model.export_task("a", tmp_path / "a")
    alone = HyperLoaderModel.from_pretrained(tmp_path / "a", make("bert", quantization))
    assert torch.allclose(logits(alone, task="a"), before, atol=1e-6)
    model.export_peft("a", tmp_path / "peft", lora_only=True)
    assert (tmp_path / "peft" / "adapter_model.safetensors").is_file()


@each_quantization
def test_half_precision_moving_and_copying(quantization):
    model = families.model_for("bert", torch.bfloat16, make("bert", quantization, torch.bfloat16))
    assert model.generated_dtype == torch.bfloat16
    found = gradients(model)
    assert all(grad is not None and grad.isfinite().all() for grad in found.values())
    before = logits(model.eval(), task="a")
    assert torch.equal(logits(copy.deepcopy(model).to("cpu"), task="a"), before)


@with_library(["bitsandbytes-nf4"])
def test_layers_that_are_packed_for_inference_are_refused(quantization):
    backbone = make("bert", quantization)
    first = next(layer for _, layer in quantized_layers(backbone))
    first.support_avx512bf16_for_cpu = True
    model = model_for("bert", quantization, backbone)
    assert not first.support_avx512bf16_for_cpu
    assert model.detach() is backbone and first.support_avx512bf16_for_cpu
    first.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ValueError, match="attached before it is run in evaluation mode, got encoder.layer.0.attention"):
        model_for("bert", quantization, backbone)
    assert all(parameter.requires_grad for parameter in backbone.embeddings.parameters())


@int8
def test_layers_of_an_unquantised_backbone_are_called_as_ever(quantization):
    """What is quantised takes another way: the classes of the sites tell."""
    plain, model = model_for("bert", None), model_for("bert", quantization)
    for path in model.site_paths:
        names = {type(backbone.get_submodule(path)).__name__ for backbone in (plain.backbone, model.backbone)}
        assert names in ({"LoraSite", "QuantizedLoraSite"}, {"AdapterSite"})
        assert type(unwrapped(model.backbone.get_submodule(path))) is nn.Linear


@each_quantization
def test_a_fingerprint_dequantises_a_layer_once(tmp_path, quantization, monkeypatch):
    """As long as nobody writes to it: saving again and again costs no more than without quantisation."""
    asked = []
    monkeypatch.setattr(fingerprints, "dequantized", lambda layer: asked.append(layer) or dequantized(layer))
    model = model_for("bert", quantization)
    gradients(model)
    for _ in range(3):
        model.save_pretrained(tmp_path)
    layers = layers_of(model.backbone)
    assert len(asked) == len(layers) > 0
    backbone, other = make("bert", quantization), make("bert", None)
    before = fingerprints.fingerprint_of(backbone, [], True)
    with torch.no_grad():
        for path in layers:
            other.get_submodule(path).weight.neg_()
    quantized.quantize(other, layers)
    backbone.load_state_dict(other.state_dict(), strict=False)
    found = fingerprints.fingerprint_of(backbone, [], True)
    assert found != before
    fingerprints._quantized.clear()
    assert fingerprints.fingerprint_of(backbone, [], True) == found


@each_quantization
def test_a_fingerprint_in_inference_mode(quantization):
    """Its tensors count no changes: nothing is kept of them."""
    with torch.inference_mode():
        backbone = make("bert", quantization)
        found = fingerprints.fingerprint_of(backbone, [], True)
    assert found == fingerprints.fingerprint_of(make("bert", quantization), [], True)
