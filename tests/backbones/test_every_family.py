"""What holds for a model on a backbone of any family; see ``helpers.families``."""

import pytest
import torch
from helpers.families import FAMILIES, TASK_IDS, TASKS, batch_for, kind_of, make, model_for, sentence
from torch._dynamo.testing import CompileCounter
from torch.nn import functional

from hyperloader import HyperLoaderModel, TaskModel
from hyperloader.backbones import find_stacks
from hyperloader.config import ADAPTER_SITES

each_family = pytest.mark.parametrize("name", FAMILIES)
COMPILED = ("modernbert", "deberta-v3", "bart", "phi3")  # the rest take their time in `make test-all`
LANGUAGE_MODELS = [name for name in FAMILIES if kind_of(make(name)) != "encoder"]


@pytest.fixture(autouse=True)
def softmax_in_float64(monkeypatch):
    """The eager attention of transformers takes its softmax in float32, whatever the model's dtype is."""
    plain = functional.softmax

    def softmax(x, dim=None, dtype=None):
        return plain(x, dim=dim, dtype=torch.float64 if x.dtype == torch.float64 else dtype)

    monkeypatch.setattr(functional, "softmax", softmax)


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def assert_same_tensors(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())


@torch.no_grad()
def logits(model, **selected):
    batch = batch_for(model.backbone)
    real = batch["labels"] != -100
    return model(**batch | ({} if model.heads is None else {"labels": None}), **selected).logits[real]


@torch.no_grad()
def generated(model, batch, **options):
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    length = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    found = model.generate(**inputs, **length, **options)
    return found[:, -5:]


@each_family
def test_every_layer_has_every_site(name):
    stacks = find_stacks(make(name))
    assert stacks
    for stack in stacks:
        assert stack.layers
        assert all(sites.keys() == stack.layers[0].keys() for sites in stack.layers)
        assert {*ADAPTER_SITES, "self_attention.query", "self_attention.value"} <= set(stack.layers[0])


@each_family
def test_a_new_model_is_its_backbone_to_the_bit(name):
    backbone = make(name, torch.float32)
    batch = {name: tensor for name, tensor in batch_for(backbone).items() if name != "labels"}
    if kind_of(backbone) == "sequence-to-sequence":
        batch["decoder_input_ids"] = batch["input_ids"]
    with torch.no_grad():
        expected = backbone(**batch, output_hidden_states=True)
        model = model_for(name, torch.float32, backbone, init="scaled", labels=None)
        found = model(**batch, output_hidden_states=True, task_ids=TASK_IDS)
        if name.startswith("longt5") and "AVX512" not in torch.backends.cpu.get_cpu_capability():
            # without AVX-512, products sum in another order where a block's numbers lie elsewhere in memory
            torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(found[0], expected[0])
        assert model.detach() is backbone
        assert torch.equal(backbone(**batch)[0], expected[0])


@each_family
def test_a_mixed_batch_is_its_sentences(name):
    model = model_for(name)
    batch = batch_for(model.backbone)
    with torch.no_grad():
        mixed = model(**batch, task_ids=TASK_IDS).logits  # encoders: of a task's labels and -inf behind
        for row, task in enumerate(TASK_IDS.tolist()):
            alone = model(**sentence(batch, row), task=TASKS[task]).logits[0]
            own = mixed[row][batch["attention_mask"][row].bool()] if len(mixed[row]) == 7 else mixed[row]
            close(own[:, : alone.shape[-1]], alone)


@each_family
def test_every_generated_weight_is_used(name):
    model = model_for(name).train()
    torch.manual_seed(0)
    model(**batch_for(model.backbone), task_ids=TASK_IDS).loss.backward()
    unused = [path for path, one in model.generators.named_parameters() if one.grad is None or not one.grad.any()]
    assert not unused


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_generates_alike_with_and_without_a_cache_and_one_by_one(name, beams):
    model = model_for(name)
    batch = batch_for(model.backbone)
    cached = generated(model, batch, task_ids=TASK_IDS, num_beams=beams)
    assert torch.equal(cached, generated(model, batch, task_ids=TASK_IDS, num_beams=beams, use_cache=False))
    for row, task in enumerate(TASK_IDS.tolist()):
        alone = generated(model, sentence(batch, row), task=TASKS[task], num_beams=beams)
        assert torch.equal(alone[0], cached[row])


@each_family
def test_merged_saved_and_loaded(name, tmp_path):
    model = model_for(name)
    expected = logits(model, task="c")
    merged = model.merge("c")
    close(logits(merged), expected)
    merged.save_pretrained(tmp_path / "merged")
    loaded = TaskModel.from_pretrained(tmp_path / "merged")
    assert_same_tensors(loaded.state_dict(), merged.state_dict())
    close(logits(loaded), logits(merged))  # which lies elsewhere in memory, for which sums may come in another order
    inplace = model.merge("c", inplace=True)
    close(logits(inplace), expected)
    model.unmerge()
    assert torch.equal(logits(model, task="c"), expected)
    model.save_pretrained(tmp_path / "model")
    assert torch.equal(logits(HyperLoaderModel.from_pretrained(tmp_path / "model", make(name)), task="c"), expected)
    model.export_task("c", tmp_path / "task")
    close(logits(HyperLoaderModel.from_pretrained(tmp_path / "task", make(name)), task="c"), expected)


@each_family
def test_sentences_of_one_token_in_half_precision(name):
    model = model_for(name, torch.bfloat16, init="scaled").train()
    tokens = slice(-2, None) if kind_of(model.backbone) == "causal" else slice(1)  # which predicts a second one
    batch = {path: tensor[:, tokens] for path, tensor in batch_for(model.backbone).items()}
    output = model(**batch, task_ids=TASK_IDS)
    output.loss.backward()
    assert output.logits.shape[:2] == batch["input_ids"].shape and output.loss.isfinite()
    trained = [one for one in model.parameters() if one.requires_grad]
    assert all(one.dtype == torch.float32 and (one.grad is None or one.grad.isfinite().all()) for one in trained)


@pytest.mark.parametrize("name", [name for name in FAMILIES if not make(name).supports_gradient_checkpointing])
def test_gradient_checkpointing_that_the_backbone_lacks_is_refused(name):
    with pytest.raises(ValueError, match="does not support (gradient|activation) checkpointing"):
        model_for(name).gradient_checkpointing_enable()


@pytest.mark.parametrize("name", [name for name in FAMILIES if make(name).supports_gradient_checkpointing])
def test_gradient_checkpointing_changes_nothing(name):
    model = model_for(name).train()
    grads = []
    for enabled in (False, True):
        if enabled:
            model.gradient_checkpointing_enable()
            assert any(getattr(module, "gradient_checkpointing", False) for module in model.backbone.modules())
        model.zero_grad()
        torch.manual_seed(0)
        model(**batch_for(model.backbone), task_ids=TASK_IDS).loss.backward()
        grads.append({path: one.grad for path, one in model.named_parameters() if one.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for path, grad in grads[0].items():
        close(grads[1][path], grad)


@each_family
def test_norms_that_are_made_again_change_nothing(name):
    model = model_for(name).train()
    grads = []
    for enabled in (False, True):
        model.recompute_norms(enabled)
        model.zero_grad()
        torch.manual_seed(0)
        model(**batch_for(model.backbone), task_ids=TASK_IDS).loss.backward()
        grads.append({path: one.grad for path, one in model.named_parameters() if one.grad is not None})
    assert_same_tensors(*grads)


@pytest.mark.parametrize(
    "name", [name if name in COMPILED else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_compiles_to_one_graph(name):
    model, counter = model_for(name), CompileCounter()
    if name == "gpt2":  # whose class does not tell: transformers would warn of that within the graph
        model.backbone.loss_type = "ForCausalLM"
    batch = batch_for(model.backbone) | ({} if model.heads is not None else {"use_cache": False})
    expected = model(**batch, task_ids=TASK_IDS).loss
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    close(compiled(**batch, task_ids=TASK_IDS).loss, expected)
    assert counter.frame_count == 1
