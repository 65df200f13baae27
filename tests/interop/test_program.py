"""Models as programs of PyTorch's own operators: equal to the model for any batch, in another process too."""

import subprocess
import sys

import pytest
import torch
from helpers import tiny, words

from hyperloader.interop.program import describe, exported

KINDS = {"kinds": {"a": "tagging", "b c": "classification", "ü.weight": "tagging"}}
SIZES = ((5, 7), (1, 4), (7, 1), (1, 1))


def batch(sentences, tokens):
    """Inputs by name, some of them padded."""
    generator = torch.Generator().manual_seed(sentences)
    mask = torch.ones(sentences, tokens, dtype=torch.int64)
    mask[1::2, tokens // 2 + 1 :] = 0
    return {
        "input_ids": torch.randint(2, tiny.VOCABULARY, (sentences, tokens), generator=generator),
        "attention_mask": mask,
        "token_type_ids": torch.zeros_like(mask),
        "task_ids": torch.randint(0, len(tiny.TASKS), (sentences,), generator=generator),
    }


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
    used = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    used |= {"token_type_ids": inputs["token_type_ids"]} if name == "electra" else {}
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


def test_what_cannot_be_exported_says_so():
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
