"""Two checkpoints of the published code, and what that code computed from them in float64."""

import pytest
import torch
from torch.nn import functional

from hyperloader.interop.published import load_published_checkpoint
from hyperloader.interop.published.names import ADAPTER, CONDITION, LORA, norm_modules

LOGITS, GRADIENTS = 5e-5, 1e-3  # relative; transformers' T5 takes norms and softmax in float32 even in float64
LENGTH = 12  # of generation, padded with 0


@pytest.fixture(scope="module", params=["cross", "hyperformer"])
def folder(request, published_folder):
    return published_folder / request.param


@pytest.fixture(scope="module")
def expected(folder):
    return torch.load(folder / "expected.pt", weights_only=True)


@pytest.fixture
def model(folder):
    return load_published_checkpoint(folder, activation="gelu_new", train_norms=True).double()


def inputs(expected):
    return {name: expected[name] for name in ("input_ids", "attention_mask")}


def relative(found, wanted):
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def named(model):
    """The published name of every trained parameter, and its gradient."""
    found = {}
    for stack, generator in model.generators.items():
        for theirs, ours in (CONDITION | ADAPTER | norm_modules(False, True) | LORA).items():
            if theirs in LORA and not model.hyperloader_config.lora_sites:
                continue
            for name, parameter in generator.get_submodule(ours).named_parameters():
                found[f"{stack}.adapter_layers_hyper_net.{theirs}.{name}"] = parameter.grad
    found |= {name: model.backbone.get_parameter(name).grad for name in model.norm_names}
    rows = model.task_embedding.weight.grad
    tasks = enumerate(model.hyperloader_config.tasks)
    return found | {f"task_embedding_controller.task_to_embeddings.{task}": rows[i] for i, task in tasks}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_loss_and_gradients(model, expected, attention):
    for part in (model.backbone, model.backbone.encoder, model.backbone.decoder):
        part.set_attn_implementation(attention)
    for task, wanted in expected["tasks"].items():
        model.zero_grad()
        outputs = model(task=task, labels=expected["labels"], **inputs(expected))
        assert relative(outputs.logits, wanted["logits"]) < LOGITS
        assert relative(outputs.loss, wanted["loss"]) < LOGITS
        outputs.loss.backward()
        found = named(model)
        assert wanted["gradients"].keys() <= found.keys()
        for name, gradient in found.items():
            if name not in wanted["gradients"] or not wanted["gradients"][name].any():  # of another task
                assert not gradient.any(), name
            else:
                assert relative(gradient, wanted["gradients"][name]) < GRADIENTS, name


def test_in_single_precision(model, expected):
    model = model.float()
    for task, wanted in expected["tasks"].items():
        assert (
            relative(model(task=task, labels=expected["labels"], **inputs(expected)).logits, wanted["logits"]) < LOGITS
        )


@pytest.mark.parametrize("cache", [True, False, "static"])
def test_generated_tokens(model, expected, cache):
    options = {"cache_implementation": "static"} if cache == "static" else {"use_cache": cache}
    for task, wanted in expected["tasks"].items():
        for name, beams in (("greedy", 1), ("beams_4", 4)):
            tokens = model.generate(
                task=task, max_length=LENGTH, num_beams=beams, do_sample=False, **options, **inputs(expected)
            )
            assert torch.equal(functional.pad(tokens, (0, LENGTH - tokens.shape[1])), wanted[name]), (task, name)


def test_a_mixed_batch(model, expected):
    tasks = torch.tensor([0, 1, 1])
    logits = model(task_ids=tasks, labels=expected["labels"], **inputs(expected)).logits
    for row, task in enumerate(tasks):
        wanted = expected["tasks"][model.hyperloader_config.tasks[task]]["logits"][row]
        assert relative(logits[row], wanted) < LOGITS


def test_merged(model, expected, tmp_path):
    for task, wanted in expected["tasks"].items():
        merged = model.merge(task)
        merged.save_pretrained(tmp_path / task)
        for one in (merged, type(merged).from_pretrained(tmp_path / task)):
            assert relative(one(labels=expected["labels"], **inputs(expected)).logits, wanted["logits"]) < LOGITS
