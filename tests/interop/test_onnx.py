"""ONNX files in onnxruntime: equal to the model, with all tasks inside and with one."""

import pytest
import torch
from helpers import tiny, words
from helpers.exported import KINDS, SIZES
from helpers.exported import batch as full_batch

from hyperloader.interop.onnx import OnnxModel, quantize_onnx, save_onnx

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package)


def batch(sentences, tokens):
    inputs = full_batch(sentences, tokens)
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def assert_same(found, wanted, tolerance):
    """Beyond the columns of ``wanted`` there is nothing; -inf stands in the same places."""
    assert not found[..., wanted.shape[-1] :].isfinite().any()
    found, finite = found[..., : wanted.shape[-1]], wanted.isfinite()
    assert torch.equal(found.isfinite(), finite)
    assert (found[finite] - wanted[finite]).abs().max() <= tolerance * wanted[finite].abs().max()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("bert", KINDS), ("distilbert", {}), ("t5-encoder", {})])
def test_all_tasks_in_one_file(name, options, tmp_path):
    model = tiny.make_model(name, torch.float32, **options)
    save_onnx(model, tmp_path / "all.onnx")
    quantize_onnx(tmp_path / "all.onnx", tmp_path / "int8.onnx")
    onnx, int8 = OnnxModel(tmp_path / "all.onnx"), OnnxModel(tmp_path / "int8.onnx")
    assert [task["name"] for task in onnx.description["tasks"]] == tiny.TASKS
    for sentences, tokens in SIZES:
        inputs = batch(sentences, tokens)
        task_ids = torch.arange(sentences) % len(tiny.TASKS)
        with torch.no_grad():
            wanted = model(**inputs, task_ids=task_ids).logits
        assert_same(onnx(**inputs, task_ids=task_ids).logits, wanted, 1e-5)
        assert_same(int8(**inputs, task_ids=task_ids).logits, wanted, 0.1)


@pytest.mark.slow
def test_tasks_and_heads_of_words(tmp_path):
    model = words.make_model("bert", torch.float32)
    save_onnx(model, tmp_path / "all.onnx")
    inputs, task_ids = batch(5, 7), torch.tensor([0, 1, 2, 0, 1])
    with torch.no_grad():
        wanted = model(**inputs, task_ids=task_ids).logits
    assert_same(OnnxModel(tmp_path / "all.onnx")(**inputs, task_ids=task_ids).logits, wanted, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["post", "none", "both"])
def test_one_task(norm, tmp_path):
    merged = tiny.make_model("bert", torch.float32, norm=norm).merge("ü.weight")
    save_onnx(merged, tmp_path / "one.onnx", opset=20)
    onnx = OnnxModel(tmp_path / "one.onnx")
    for size in SIZES:
        inputs = batch(*size)
        with torch.no_grad():
            assert_same(onnx(**inputs).logits, merged(**inputs).logits, 1e-5)


def test_every_column_has_a_factor(tmp_path):
    """A large column costs the small one beside it nothing."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper, save

    torch.manual_seed(0)
    weight = torch.randn(64, 2) * torch.tensor([100.0, 0.1])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])
    weights = [numpy_helper.from_array(weight.numpy(), "w")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], "product")], "one", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    save(model, tmp_path / "float32.onnx")
    inputs, errors = torch.randn(8, 64), []
    for options in ({}, {"per_column": False}):
        quantize_onnx(tmp_path / "float32.onnx", tmp_path / "int8.onnx", **options)
        session = onnxruntime.InferenceSession(tmp_path / "int8.onnx", providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {"x": inputs.numpy()})[0])
        errors.append(((found - inputs @ weight).norm(dim=0) / (inputs @ weight).norm(dim=0)).tolist())
    assert max(errors[0]) < 0.05 and errors[1][0] < 0.05 < 0.5 < errors[1][1]


def test_what_cannot_be_written_says_so(tmp_path):
    model = tiny.make_model("bert", torch.float32)
    with pytest.raises(ValueError, match="opset must be from 18 to 23, got 11"):
        save_onnx(model, tmp_path / "old.onnx", opset=11)
    with pytest.raises(ValueError, match="model must be an encoder with task heads"):
        save_onnx(tiny.make_model("t5", torch.float32), tmp_path / "text.onnx")
    assert not list(tmp_path.iterdir())
