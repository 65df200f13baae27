"""The bias of T5's cross-attention, against attention written down plainly: every layer adds it by itself, uncached."""

import copy
import pickle

import pytest
import torch
from helpers.published_oracle import CrossAttention
from helpers.tiny import TASKS, VOCABULARY, make, make_model
from transformers import DynamicCache, EncoderDecoderCache, StaticCache

from hyperloader import HyperLoaderModel, TaskModel
from hyperloader.backbones.cross_attention_bias import NAME, cross_attention_bias, set_cross_attention_bias

SOURCE, TARGET = 40, 9  # the furthest keys share buckets
HEADS = 4


def bias(scale=1.0):
    return scale * torch.randn(32, HEADS, generator=torch.Generator().manual_seed(3))


def sharp(backbone):
    """With attention that is far from uniform, and tokens that depend on it."""
    with torch.no_grad():
        for block in backbone.decoder.block:
            block.layer[1].EncDecAttention.o.weight.mul_(4)
    return backbone


def plain(backbone):
    """A copy of ``backbone`` with ``bias`` in the plain way."""
    other = copy.deepcopy(backbone)
    other.generation_config.use_cache = False
    for part in (other, other.decoder):
        part.config.use_cache = False
    for block in other.decoder.block:
        attention = block.layer[1].EncDecAttention
        block.layer[1].EncDecAttention = CrossAttention(attention, bias().to(attention.q.weight))
    return other


def biased(name="t5", dtype=torch.float64):
    """A backbone with the bias, and the same one in the plain way."""
    backbone = sharp(make(name, dtype))
    theirs = plain(backbone)
    set_cross_attention_bias(backbone, bias())
    return backbone, theirs


def batch():
    generator = torch.Generator().manual_seed(2)
    source = torch.randint(2, VOCABULARY, (3, SOURCE), generator=generator)
    mask = torch.ones_like(source)
    mask[1, 25:] = 0
    labels = torch.randint(2, VOCABULARY, (3, TARGET), generator=generator)
    return {"input_ids": source, "attention_mask": mask, "labels": labels}


def close(found, wanted):
    return torch.allclose(found, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["t5", "mt5", "t5-narrow-heads"])
def test_logits_and_gradients(name, attention):
    backbone, theirs = biased(name)
    for part in (backbone, backbone.encoder, backbone.decoder):  # some versions set the outermost alone
        part.set_attn_implementation(attention)
    assert backbone.decoder.config._attn_implementation == attention
    found, wanted = backbone(**batch()), theirs(**batch())
    assert close(found.logits, wanted.logits)
    assert not close(make(name, torch.float64)(**batch()).logits, wanted.logits)
    grads = [
        torch.autograd.grad(one.loss, model.shared.weight)[0] for one, model in ((found, backbone), (wanted, theirs))
    ]
    assert close(*grads)
    assert not cross_attention_bias(backbone).requires_grad


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("steps", [[1] * TARGET, [4, 1, 3, 1]])
def test_position_of_cached_queries(kind, steps):
    """Token by token or several at a time, the logits are those of the whole target at once."""
    backbone, theirs = biased()
    inputs = batch()
    target = inputs.pop("labels")
    wanted = theirs(decoder_input_ids=target, **inputs).logits
    encoded = backbone.get_encoder()(**inputs)
    caches = [
        StaticCache(config=backbone.config, max_cache_len=length) if kind == "static" else DynamicCache()
        for length in (TARGET, SOURCE)
    ]
    cache, found = EncoderDecoderCache(*caches), []
    for part in target.split(steps, 1):
        options = {"attention_mask": inputs["attention_mask"], "past_key_values": cache, "use_cache": True}
        found.append(backbone(encoder_outputs=encoded, decoder_input_ids=part, **options).logits)
    assert close(torch.cat(found, 1), wanted)


@pytest.mark.parametrize("options", [{}, {"num_beams": 4}, {"cache_implementation": "static"}, {"use_cache": False}])
def test_generated_tokens(options):
    backbone, theirs = biased()
    inputs = {name: tensor for name, tensor in batch().items() if name != "labels"}
    beams = options.get("num_beams", 1)
    length = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    wanted = theirs.generate(**inputs, num_beams=beams, **length)
    assert torch.equal(backbone.generate(**inputs, **length, **options), wanted)


def test_gradient_checkpointing():
    model = make_model("t5")
    set_cross_attention_bias(model.backbone, bias())
    model.train()
    grads = []
    for enabled in (False, True):
        if enabled:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(task=TASKS[0], **batch()).loss.backward()
        grads.append({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert all(close(grads[1][name], grad) for name, grad in grads[0].items())


def test_compiled():
    backbone, theirs = biased()
    compiled = torch.compile(backbone, fullgraph=True, backend="eager")
    assert cross_attention_bias(compiled) is cross_attention_bias(backbone)
    assert close(compiled(**batch(), use_cache=False).logits, theirs(**batch()).logits)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda backbone: pickle.loads(pickle.dumps(backbone))])
def test_a_copy_is_its_own(again):
    backbone, theirs = biased()
    other, wanted = again(backbone), theirs(**batch()).logits
    assert close(other(**batch()).logits, wanted)
    set_cross_attention_bias(other, None)
    assert NAME not in other.state_dict()
    assert not close(other(**batch()).logits, wanted)
    assert close(backbone(**batch()).logits, wanted)


def test_set_again_and_taken_off():
    backbone = make("t5")
    before = backbone(**batch()).logits
    for scale in (5, 1):
        set_cross_attention_bias(backbone, bias(scale))
    attention = backbone.decoder.block[0].layer[1].EncDecAttention
    assert len(attention._forward_pre_hooks) == 1
    assert torch.equal(backbone.state_dict()[NAME], bias())
    set_cross_attention_bias(backbone, None)
    assert not attention._forward_pre_hooks
    assert torch.equal(backbone(**batch()).logits, before)


@pytest.fixture
def model():
    """A model on a backbone with the bias."""
    found = make_model("t5", torch.float32)
    set_cross_attention_bias(found.backbone, bias())
    return found


def logits(model, task=TASKS[1]):
    with torch.no_grad():
        return model(task=task, **batch()).logits


class TestSaved:
    """A model whose backbone has the bias."""

    def test_onto_a_backbone_without(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        backbone = make("t5")
        before = backbone(**batch()).logits
        again = HyperLoaderModel.from_pretrained(tmp_path, backbone)
        assert torch.equal(logits(again), logits(model))
        again.save_pretrained(tmp_path)
        assert again.detach() is backbone
        assert NAME not in backbone.state_dict()
        assert torch.equal(backbone(**batch()).logits, before)
        assert torch.equal(logits(HyperLoaderModel.from_pretrained(tmp_path, backbone)), logits(model))

    def test_onto_a_backbone_with_it(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        backbone = make("t5")
        set_cross_attention_bias(backbone, bias())
        again = HyperLoaderModel.from_pretrained(tmp_path, backbone)
        assert torch.equal(logits(again), logits(model))
        assert torch.equal(again.detach().state_dict()[NAME], bias())

    def test_onto_another_backbone(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        backbone = make("t5")
        set_cross_attention_bias(backbone, bias(2))
        with pytest.raises(ValueError, match=f"wrong backbone: the values of {NAME}"):
            HyperLoaderModel.from_pretrained(tmp_path, backbone)
        other = make("t5")
        torch.nn.init.normal_(other.shared.weight)
        with pytest.raises(ValueError, match="wrong backbone: the values of shared.weight"):
            HyperLoaderModel.from_pretrained(tmp_path, other)
        assert NAME not in other.state_dict()

    def test_a_model_without_onto_a_backbone_with_it(self, tmp_path):
        make_model("t5", torch.float32).save_pretrained(tmp_path)
        backbone = make("t5")
        set_cross_attention_bias(backbone, bias())
        with pytest.raises(ValueError, match=f"wrong backbone: only this backbone has the tensor {NAME}"):
            HyperLoaderModel.from_pretrained(tmp_path, backbone)

    @pytest.mark.parametrize("inplace", [False, True])
    def test_merged(self, model, tmp_path, inplace):
        wanted = logits(model)
        merged = model.merge(TASKS[1], inplace=inplace)
        merged.save_pretrained(tmp_path)
        for one in (merged, TaskModel.from_pretrained(tmp_path)):
            assert close(one(**batch()).logits, wanted)

    def test_exported(self, model, tmp_path):
        model.export_task(TASKS[1], tmp_path / "task")
        assert close(logits(HyperLoaderModel.from_pretrained(tmp_path / "task", make("t5"))), logits(model))
        with pytest.raises(ValueError, match=f"PEFT's LoRA cannot hold all of .*the backbone's {NAME}"):
            model.export_peft(TASKS[1], tmp_path / "peft")

    def test_not_trained(self, model):
        assert not any(name.endswith(NAME) for name, one in model.named_parameters() if one.requires_grad)
        assert model.trainable_parameters() == make_model("t5").trainable_parameters()


def test_a_type_of_its_own():
    backbone = make("t5", torch.bfloat16)
    set_cross_attention_bias(backbone, bias())
    assert cross_attention_bias(backbone).dtype == torch.bfloat16
    assert backbone(**batch()).logits.isfinite().all()
    assert cross_attention_bias(backbone.double()).dtype == torch.float64


def test_refused(monkeypatch):
    backbone = make("t5")
    with pytest.raises(ValueError, match=r"bias.weight must have shape \(32, 4\), got \(4, 32\)"):
        set_cross_attention_bias(backbone, bias().T)
    with pytest.raises(ValueError, match="backbone must be a T5 with a decoder, got T5EncoderModel"):
        set_cross_attention_bias(make("t5-encoder"), bias())
    with pytest.raises(ValueError, match="backbone must be a T5 with a decoder, got BertModel"):
        set_cross_attention_bias(make("bert"), bias())
    set_cross_attention_bias(backbone, bias())
    backbone.decoder.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match="attn_implementation must be eager or sdpa .*, got 'flex_attention'"):
        backbone.decoder.block[0].layer[1].EncDecAttention(
            torch.zeros(1, 2, 16), key_value_states=torch.zeros(1, 3, 16)
        )
    with pytest.raises(ValueError, match="attn_implementation must be eager or sdpa .*, got 'flex_attention'"):
        set_cross_attention_bias(backbone, bias())
    monkeypatch.setattr("transformers.__version__", "5.14.3")
    with pytest.raises(ImportError, match=r"transformers must be at least 5\.15 .*, got 5\.14\.3"):
        set_cross_attention_bias(make("t5"), bias())
