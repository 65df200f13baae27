"""Models as programs of PyTorch's own operators: equal to the model for any batch, in another process too."""

import subprocess
import sys

import pytest
import torch
from helpers import tiny, words
from helpers.exported import KINDS, SIZES, batch

from hyperloader.interop.program import OPERATORS, Logits, describe, exported, save_compiled
from hyperloader.ops import native


def expected(model, inputs):
    """What the model says, with as many columns as the task with the most labels; and where it is finite."""
    with torch.no_grad():
        logits = model(**inputs).logits
    missing = max(map(len, tiny.LABELS.values())) - logits.shape[-1]
    return torch.nn.functional.pad(logits, (0, missing), value=-torch.inf)


def test_all_tasks_in_one_program():
    model = tiny.make_model("bert", torch.float32, base_weights=True, **KINDS)
    program = exported(model)
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [name for name in names if "hyperloader" in name]
    for size in SIZES:
        inputs = batch(*size)
        wanted, found = expected(model, inputs), program.module()(*inputs.values())
        assert torch.equal(found.isfinite(), wanted.isfinite())
        finite = wanted.isfinite()
        assert (found[finite] - wanted[finite]).abs().max() <= 1e-5 * wanted[finite].abs().max()


def test_tasks_and_heads_of_words():
    model = words.make_model("bert", torch.float32)
    program, inputs = exported(model), batch(5, 7)
    wanted, found = expected(model, inputs), program.module()(*inputs.values())
    assert torch.equal(found.isfinite(), finite := wanted.isfinite())
    assert (found[finite] - wanted[finite]).abs().max() <= 1e-5 * wanted[finite].abs().max()
    task, inputs = inputs.pop("task_ids")[0].item(), batch(2, 5)
    merged = model.merge(tiny.TASKS[task])
    del inputs["task_ids"]
    with torch.no_grad():
        torch.testing.assert_close(exported(merged).module()(*inputs.values()), merged(**inputs).logits)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["roberta", "distilbert", "electra", "t5-encoder"])
def test_one_task_in_a_process_with_torch_alone(name, tmp_path):
    merged = tiny.make_model(name, torch.float32).merge("ü.weight")
    program = exported(merged)
    torch.export.save(program, tmp_path / "model.pt2")
    inputs = batch(3, 6)
    used = {key: inputs[key] for key in Logits(merged).inputs}
    torch.save(list(used.values()), tmp_path / "inputs.pt")
    code = (
        "import sys, torch; program = torch.export.load(sys.argv[1] + '/model.pt2').module();"
        "torch.save(program(*torch.load(sys.argv[1] + '/inputs.pt')), sys.argv[1] + '/logits.pt');"
        "assert 'hyperloader' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    with torch.no_grad():
        wanted = merged(**used).logits
    found = torch.load(tmp_path / "logits.pt")
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


LOAD = """
import sys, torch
folder, *libraries = sys.argv[1:]
for library in libraries:
    torch.ops.load_library(library)
program = torch._inductor.aoti_load_package(folder + "/model.pt2")
torch.save([program(*inputs) for inputs in torch.load(folder + "/inputs.pt")], folder + "/logits.pt")
assert not {"hyperloader", "transformers"} & sys.modules.keys()
"""


@pytest.mark.slow
@pytest.mark.parametrize("operators", OPERATORS)
@pytest.mark.parametrize(("name", "merged"), [("bert", False), ("bert", True), ("t5-encoder", False)])
def test_compiled_ahead_of_time_in_a_process_with_torch_alone(name, merged, operators, tmp_path):
    if operators == "ours" and not native.available:
        pytest.skip(f"no extension: {native.reason}")
    model = tiny.make_model(name, torch.float32)
    model = model.merge("ü.weight") if merged else model
    save_compiled(model, tmp_path / "model.pt2", operators)
    names = Logits(model).inputs
    batches = [{key: one for key, one in batch(*size).items() if key in names} for size in SIZES]
    torch.save([[one[key] for key in names] for one in batches], tmp_path / "inputs.pt")
    libraries = [native.extension().__file__] if operators == "ours" else []
    subprocess.run([sys.executable, "-c", LOAD, str(tmp_path), *libraries], check=True)
    for inputs, found in zip(batches, torch.load(tmp_path / "logits.pt"), strict=True):
        with torch.no_grad():
            wanted = model(**inputs).logits if merged else expected(model, inputs)
        finite = wanted.isfinite()
        assert torch.equal(found.isfinite(), finite)
        assert (found[finite] - wanted[finite]).abs().max() <= 1e-5 * wanted[finite].abs().max()


@pytest.mark.slow
@pytest.mark.skipif(not native.available, reason=f"no extension: {native.reason}")
@pytest.mark.parametrize("name", ["bert", "t5-encoder"])
def test_a_program_of_our_operators(name):
    model = tiny.make_model(name, torch.float32)
    program = exported(model, "ours")
    modules = [one for one in program.graph_module.modules() if isinstance(one, torch.fx.GraphModule)]
    called = {str(node.target) for one in modules for node in one.graph.nodes if node.op == "call_function"}
    ours = {name for name in called if "hyperloader" in name}
    assert ours == {"hyperloader.adapter.default", "hyperloader.lora_linears.default"}
    inputs = {key: one for key, one in batch(5, 7).items() if key in Logits(model).inputs}
    wanted, found = expected(model, inputs), program.module()(*inputs.values())
    finite = wanted.isfinite()
    assert (found[finite] - wanted[finite]).abs().max() <= 1e-5 * wanted[finite].abs().max()


def test_what_cannot_be_exported_says_so():
    with pytest.raises(ValueError, match="operators must be one of plain, ours, got 'all'"):
        exported(tiny.make_model("bert", torch.float32), "all")
    with pytest.raises(ValueError, match=r"path must end with \.pt2, got model\.so"):
        save_compiled(tiny.make_model("bert", torch.float32), "model.so")
    with pytest.raises(ValueError, match="model must be an encoder with task heads to be exported, got T5For"):
        exported(tiny.make_model("t5", torch.float32))
    with pytest.raises(ValueError, match=r"model must be float32 on the CPU to be exported, got torch.float64 on cpu"):
        exported(tiny.make_model("bert"))


def test_descriptions():
    config = tiny.config_for("bert", kinds={"a": "tagging", "b c": "regression"}, units={"b c": (2.0, 3.0)})
    assert describe(config)["tasks"][:2] == [
        {"name": "a", "kind": "tagging", "labels": tiny.LABELS["a"]},
        {"name": "b c", "kind": "regression", "labels": ["O"], "mean": 2.0, "deviation": 3.0},
    ]
