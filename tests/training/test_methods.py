import pytest
import torch
from helpers import families
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from hyperloader.backbones import find_stacks
from hyperloader.training.methods import METHODS, build_model

TASKS = ["one", "two"]
LABELS = {"one": ["O", "B-a", "I-a"], "two": ["O", "B-b", "I-b", "B-c", "I-c"]}


def backbone():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertModel(BertConfig(vocab_size=50, **sizes)).eval()


def build(method, **options):
    if METHODS[method] and "reduction_factor" in METHODS[method]:
        options.setdefault("reduction_factor", 4)
    return build_model(method, backbone(), TASKS, LABELS, options)


@pytest.fixture
def batch():
    return {
        "input_ids": torch.tensor([[2, 3, 4, 5], [6, 7, 8, 9]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        "task_ids": torch.tensor([0, 1]),
        "labels": torch.tensor([[0, 1, 2, -100], [4, 3, -100, -100]]),
    }


@pytest.mark.parametrize("method", METHODS)
def test_all_methods_have_one_signature(method, batch):
    output = build(method)(**batch)
    assert output.logits.shape == (2, 4, 5)
    assert (output.logits[0, :, 3:] == -torch.inf).all()
    assert output.logits[1].isfinite().all()
    assert output.loss.isfinite()
    output.loss.backward()


@pytest.mark.parametrize("method", METHODS)
def test_what_is_trained_gets_gradients_and_nothing_else_does(method, batch):
    model = build(method)
    model(**batch).loss.backward()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, name
        elif "lora_A" not in name:  # zero as long as lora_B is
            assert parameter.grad is not None, name


def trained(model, *, heads):
    return {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and ("heads." in name) == heads
    }


def test_lora_trains_query_and_value_updates_and_heads():
    model = build("lora", rank=4)
    assert sum(trained(model, heads=False).values()) == 2 * 2 * 2 * 4 * 32
    assert sum(trained(model, heads=True).values()) == (32 + 1) * (3 + 5)
    assert not any("LayerNorm" in name for name in trained(model, heads=False))


def test_lora_knows_distilbert_and_t5():
    distil = DistilBertModel(DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=2, hidden_dim=64))
    t5 = T5EncoderModel(T5Config(vocab_size=50, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2))
    for encoder in (distil, t5):
        names = trained(build_model("lora", encoder, TASKS, LABELS, {"rank": 4}), heads=False)
        assert len(names) == 2 * 2 * 2


def test_full_trains_everything_but_the_unused_pooler():
    model, plain = build("full"), backbone()
    pooler = sum(parameter.numel() for parameter in plain.pooler.parameters())
    everything = sum(parameter.numel() for parameter in plain.parameters())
    assert sum(trained(model, heads=False).values()) == everything - pooler


def test_hyperformer_and_adapter_are_without_lora():
    assert build("hyperformer++").hyperloader_config.lora_sites == ()
    adapter = build("adapter").hyperloader_config
    assert (adapter.lora_sites, adapter.generator) == ((), "table")
    assert build("hyperloader").hyperloader_config.lora_sites


def test_text_to_text_baselines_ignore_the_task():
    sizes = {"vocab_size": 50, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    plain = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)).eval()
    ids = torch.tensor([[2, 3, 4]])
    expected = plain(input_ids=ids, labels=ids).loss
    model = build_model("full", plain, TASKS).eval()
    assert model(input_ids=ids, labels=ids, task_ids=torch.tensor([1])).loss == expected
    generated = model.generate(input_ids=ids, task_ids=torch.tensor([1]), max_new_tokens=3)
    assert torch.equal(generated, plain.generate(input_ids=ids, max_new_tokens=3))


def test_options_of_another_method_are_refused():
    with pytest.raises(ValueError, match=r"model\.rank must not be given for the method full, got 4"):
        build("full", rank=4)
    with pytest.raises(ValueError, match="method must be one of .* full, got 'lorra'; did you mean 'lora'"):
        build_model("lorra", backbone(), TASKS, LABELS)


def test_the_heads_have_the_dropout_of_the_backbone():
    for method in ("hyperloader", "lora", "full"):
        assert build(method).heads.dropout.p == 0.1


@pytest.mark.parametrize("name", families.FAMILIES)
def test_peft_adapts_query_and_value_of_every_family(name):
    plain = families.make(name, torch.float32)
    wanted = {path for stack in find_stacks(plain) for sites in stack.layers for path in _query_and_value(sites)}
    labels = families.LABELS if families.kind_of(plain) == "encoder" else None
    model = build_model("lora", plain, families.TASKS, labels)
    found = {path.split("base_model.model.")[1] for path, module in model.named_modules() if hasattr(module, "lora_A")}
    assert found == wanted


def _query_and_value(sites):
    return [path for site, path in sites.items() if site.endswith((".query", ".value"))]
