"""A backbone in half precision: what is trained is float32, and moves as on a float32 backbone."""

import copy
import pickle

import pytest
import torch
from helpers import tiny
from helpers.tiny import TASK_IDS, TASKS, config_for, make_batch, make_model

from hyperloader import HyperLoaderConfig, HyperLoaderModel, TaskModel

HALF = (torch.bfloat16, torch.float16)
each_half = pytest.mark.parametrize("dtype", HALF, ids=str)
each_kind = pytest.mark.parametrize("name", ["bert", "t5"])


def attach(name, dtype, **options):
    torch.manual_seed(3)
    return HyperLoaderModel(tiny.make(name, dtype), config_for(name, init="scaled", **options))


@torch.no_grad()
def logits(model, name):
    return model.eval()(**make_batch(name), task_ids=TASK_IDS).logits


def check_dtypes(model, dtype, trained=torch.float32):
    for name, parameter in model.named_parameters():
        wanted = trained if name in model.trainable_state() else dtype
        assert parameter.dtype == wanted, name


@each_half
@pytest.mark.parametrize("name", ["bert", "distilbert", "t5-encoder", "t5"])
def test_forward_backward_save_and_load(name, dtype, tmp_path):
    model = attach(name, dtype).train()
    check_dtypes(model, dtype)
    model(**make_batch(name), task_ids=TASK_IDS).loss.backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is None or (parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all())
        assert (parameter.grad is not None) == parameter.requires_grad, path
    tiny.randomise(model)
    model.save_pretrained(tmp_path)
    loaded = HyperLoaderModel.from_pretrained(tmp_path, tiny.make(name, dtype))
    check_dtypes(loaded, dtype)
    assert torch.equal(logits(loaded, name), logits(model, name))


@pytest.mark.parametrize("cast", [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.bfloat16()])
@each_kind
def test_a_cast_model_keeps_what_is_trained(name, cast, tmp_path):
    model = cast(make_model(name, torch.float32))
    check_dtypes(model, model.dtype)
    assert model.dtype in HALF
    before = logits(model, name)
    assert torch.equal(before, logits(cast(model), name)), "casting again changes nothing"
    model.save_pretrained(tmp_path)
    loaded = cast(HyperLoaderModel.from_pretrained(tmp_path, tiny.make(name)))
    assert torch.equal(logits(loaded, name), before)
    other = make_model(name, torch.float32)
    assert all(torch.equal(one, model.trainable_state()[key]) for key, one in other.trainable_state().items())


def test_float64_is_kept(tmp_path):
    model = make_model("bert", torch.float64)
    check_dtypes(model, torch.float64, torch.float64)
    model.save_pretrained(tmp_path)
    loaded = HyperLoaderModel.from_pretrained(tmp_path, tiny.make("bert", torch.float64))
    check_dtypes(loaded, torch.float64, torch.float64)
    assert torch.equal(logits(loaded, "bert"), logits(model, "bert"))
    check_dtypes(loaded.half(), torch.float16)


@each_half
def test_gradient_checkpointing_changes_nothing(dtype):
    """Of a T5 the sums come in another order with it."""
    name = "bert"
    gradients = []
    for checkpointing in (False, True):
        model = attach(name, dtype).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**make_batch(name), task_ids=TASK_IDS).loss.backward()
        gradients.append([model.backbone.get_parameter(norm).grad for norm in model.norm_names])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_a_compiled_half_of_a_model():
    model = attach("bert", torch.bfloat16).eval()
    expected = logits(model, "bert")
    model.backbone = torch.compile(model.backbone, backend="eager")
    torch.testing.assert_close(logits(model, "bert"), expected, rtol=0.02, atol=0.02)


def moved(name, dtype, rate):
    """How far 20 steps of AdamW move the backbone's norms."""
    model = attach(name, dtype).train()
    before = {norm: model.backbone.get_parameter(norm).detach().clone() for norm in model.norm_names}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    for _ in range(20):
        optimizer.zero_grad()
        model(**make_batch(name), task_ids=TASK_IDS).loss.backward()
        optimizer.step()
    return sum((model.backbone.get_parameter(norm) - one).abs().mean().item() for norm, one in before.items())


@each_kind
@pytest.mark.parametrize("rate", [3e-4, 1e-3])
def test_norms_move_as_in_float32(name, rate):
    expected = moved(name, torch.float32, rate)
    for dtype in HALF:
        assert moved(name, dtype, rate) == pytest.approx(expected, rel=0.2), dtype


@each_half
@each_kind
def test_detach_gives_half_a_backbone_back(name, dtype):
    backbone = tiny.make(name, dtype)
    before = {key: (tensor.data_ptr(), tensor.clone()) for key, tensor in backbone.state_dict().items()}
    kinds = {path: type(module) for path, module in backbone.named_modules()}
    model = HyperLoaderModel(backbone, config_for(name))
    tiny.randomise(model)
    model.detach()
    assert {path: type(module) for path, module in backbone.named_modules()} == kinds
    for key, tensor in backbone.state_dict().items():
        assert tensor.data_ptr() == before[key][0] and torch.equal(tensor, before[key][1]), key


def test_detach_after_a_cast_leaves_one_dtype():
    model = make_model("bert", torch.float32).half()
    norms = model.norm_names
    backbone = model.detach()
    expected = tiny.make("bert").half()
    assert all(torch.equal(backbone.get_parameter(name), expected.get_parameter(name)) for name in norms)
    assert torch.equal(backbone(make_batch("bert")["input_ids"])[0], expected(make_batch("bert")["input_ids"])[0])


@each_half
@each_kind
def test_one_task_of_it_merged_and_exported(name, dtype, tmp_path):
    model = attach(name, dtype).eval()
    tiny.randomise(model)
    batch = make_batch(name) | ({} if name == "t5" else {"labels": None})
    with torch.no_grad():
        expected = model(**batch, task="a").logits
        merged = model.merge("a")
        assert torch.equal(
            merged.backbone.get_parameter(model.norm_names[0]), model.backbone.get_parameter(model.norm_names[0])
        )
        alone = merged(**batch).logits
        torch.testing.assert_close(alone, expected, rtol=0.1, atol=0.1 * expected.abs().max().item())
        merged.save_pretrained(tmp_path / "merged")
        loaded = TaskModel.from_pretrained(tmp_path / "merged")
        assert torch.equal(loaded(**batch).logits, alone)
        wanted = {key: tensor.dtype for key, tensor in merged.state_dict().items()}
        assert {key: tensor.dtype for key, tensor in loaded.state_dict().items()} == wanted
        again = copy.deepcopy(loaded)
        again.save_pretrained(tmp_path / "again")
        assert torch.equal(TaskModel.from_pretrained(tmp_path / "again")(**batch).logits, alone)
        merged.to(dtype)(**batch)  # a plain module: all of it is cast

        model.export_task("a", tmp_path / "task")
        exported = HyperLoaderModel.from_pretrained(tmp_path / "task", tiny.make(name, dtype))
        check_dtypes(exported, dtype)
        assert torch.equal(exported(**batch, task="a").logits, expected)


def test_copies_and_pickles():
    model = make_model("bert", torch.float32).bfloat16()
    expected = logits(model, "bert")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(other, "bert"), expected)
        other.detach()


def test_t5_in_float16_as_transformers_loads_it(tmp_path):
    """``wo`` stays float32 there, so that the layers of one backbone differ in dtype."""
    tiny.make("t5").save_pretrained(tmp_path)
    from transformers import T5ForConditionalGeneration

    backbone = T5ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float16)
    assert backbone.encoder.block[0].layer[1].DenseReluDense.wo.weight.dtype == torch.float32
    model = HyperLoaderModel(backbone, HyperLoaderConfig(tasks=TASKS, reduction_factor=4, init="scaled"))
    model.train()(**make_batch("t5"), task_ids=TASK_IDS).loss.backward()
    tiny.randomise(model)
    expected = make_model("t5", torch.float32, randomised=False, init="scaled", reduction_factor=4, rank=8)
    expected.load_state_dict(model.trainable_state(), strict=False)
    reference = logits(expected, "t5")
    torch.testing.assert_close(logits(model, "t5").float(), reference, rtol=0.05, atol=0.05 * reference.abs().max())
    model.generate(make_batch("t5")["input_ids"], task="a", max_new_tokens=3)


@each_kind
def test_a_grad_scaler_in_float16(name):
    """Steps of a scaled loss move what is trained as those of float32 do; one with an infinite gradient is left out."""
    exact, half = (attach(name, dtype).train() for dtype in (torch.float32, torch.float16))
    half.load_state_dict(exact.trainable_state(), strict=False)
    before = {path: one.detach().clone() for path, one in half.named_parameters() if one.requires_grad}
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    batch = make_batch(name)
    for model in (exact, half):
        optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(**batch, task_ids=TASK_IDS).loss
            (loss if model is exact else scaler.scale(loss)).backward()
            if model is exact:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
    moved = {path: one.detach() - before[path] for path, one in half.named_parameters() if one.requires_grad}
    wanted = {path: one.detach() - before[path] for path, one in exact.named_parameters() if one.requires_grad}
    apart = sum((moved[path] - wanted[path]).square().sum() for path in moved) ** 0.5
    assert apart < 0.02 * sum(one.square().sum() for one in wanted.values()) ** 0.5
    assert scaler.get_scale() == 2.0**14
    kept = {path: one.detach().clone() for path, one in half.named_parameters() if one.requires_grad}
    optimizer.zero_grad()
    (scaler.scale(half(**batch, task_ids=TASK_IDS).loss) * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(one, kept[path]) for path, one in half.named_parameters() if path in kept)
    assert scaler.get_scale() == 2.0**13
