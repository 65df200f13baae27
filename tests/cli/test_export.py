"""`hyperloader export`: what it writes, and what it refuses."""

import json
import subprocess
import sys

import pytest
import torch
import yaml
from helpers import kinds_run, small_run
from torch._inductor import config

from hyperloader.data.bio import repair_bio


def test_ours_peft_and_transformers(call, fails, run_folder, tmp_path):
    assert "holds one" in fails("export", run_folder, tmp_path / "x", "--format", "ours")
    assert "PEFT's LoRA cannot hold" in fails(
        "export", run_folder, tmp_path / "x", "--format", "peft", "--task", "music"
    )
    for format, file, *options in (("ours", "hyperloader.json"), ("peft", "adapter_config.json", "--lora-only")):
        result = call("export", run_folder, tmp_path / format, "--format", format, "--task", "music", *options)
        assert result.exit_code == 0, result.output
        assert (tmp_path / format / file).exists()
    message = fails("export", run_folder, tmp_path / "hf", "--format", "transformers", "--task", "music")
    assert "transformers has no place for the adapters at" in message
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--format", "pickle"),
            "format must be one of ours, peft, transformers, onnx, torch-export, aot-inductor, got 'pickle'",
        ),
        (("--format", "torch-export", "--int8"), "--int8 must be given with the format onnx alone, got torch-export"),
        (("--format", "onnx", "--lora-only"), "--lora-only must be given with the format peft alone, got onnx"),
        (("--format", "onnx", "--opset", "11"), "opset must be from 18 to 23, got 11"),
        (("--format", "torch-export", "--opset", "18"), "--opset must be given with the format onnx alone"),
        (("--format", "ours", "--score"), "--score must be given with the format onnx alone, got ours"),
        (
            ("--format", "onnx", "--task", "musik"),
            "task must be one of music, calendar, got 'musik'; did you mean 'music'?",
        ),
    ],
)
def test_refused(fails, run_folder, tmp_path, options, message):
    assert message in fails("export", run_folder, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_an_output_in_use_is_left_alone(fails, run_folder, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    assert "must be a new or an empty folder" in fails("export", run_folder, tmp_path, "--format", "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_missing_library_says_how_to_install_it(fails, run_folder, tmp_path, monkeypatch):
    from hyperloader.training import exporting

    monkeypatch.setitem(exporting._NEEDED, "onnx", ("nowhere",))
    message = fails("export", run_folder, tmp_path / "out", "--format", "onnx")
    assert message.endswith("needs nowhere, which is not installed; run: pip install 'hyperloader[onnx]'")


@pytest.mark.slow
def test_onnx_scores_what_the_run_scores(call, run_folder, tmp_path):
    result = call("export", run_folder, tmp_path / "out", "--format", "onnx", "--int8", "--score", "--opset", "19")
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.onnx", "model.int8.onnx", "tasks.json", "tokenizer.json"} <= names
    written = pytest.importorskip("onnx").load(str(tmp_path / "out" / "model.onnx"))
    assert [one.version for one in written.opset_import if not one.domain] == [19]
    described = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert [task["name"] for task in described["tasks"]] == ["music", "calendar"]
    table = call("evaluate", run_folder).stdout.partition("\n\n")[2].strip()
    assert table in result.stdout


@pytest.mark.slow
def test_a_program_of_one_task(call, run_folder, tmp_path):
    result = call("export", run_folder, tmp_path / "out", "--format", "torch-export", "--task", "music")
    assert result.exit_code == 0, result.output
    described = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert [task["name"] for task in described["tasks"]] == ["music"]
    assert (tmp_path / "out" / "model.pt2").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's kernels are made by Triton")
def test_aot_inductor_needs_a_compiler(fails, tmp_path):
    with config.patch({"cpp.cxx": ("no-such-compiler",)}):  # before the run is looked at
        message = fails("export", tmp_path / "no-run", tmp_path / "out", "--format", "aot-inductor")
    assert "the format aot-inductor needs a C++ compiler; install g++" in message


SERVED = """
import json, sys
import torch
from tokenizers import Tokenizer
folder, asked = sys.argv[1:]
tasks = json.load(open(folder + "/tasks.json"))["tasks"]
tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")
tokenizer.enable_padding()
program = torch._inductor.aoti_load_package(folder + "/compiled.pt2")
numbers, words, texts = zip(*json.load(open(asked)))
encoded = [tokenizer.encode(given, is_pretokenized=True) for given in words]
for place, given in enumerate(texts):
    if given is not None:
        encoded[place] = tokenizer.encode(*given)
longest = max(len(one.ids) for one in encoded)
for one in encoded:
    one.pad(longest)
inputs = [torch.tensor([getattr(one, name) for one in encoded]) for name in ("ids", "attention_mask", "type_ids")]
for task, row, one in zip(numbers, program(*inputs, torch.tensor(numbers)), encoded):
    task = tasks[task]
    row = row[:, : len(task["labels"])]
    if task["kind"] == "tagging":
        first = {word: token for token, word in reversed(list(enumerate(one.word_ids))) if word is not None}
        print(json.dumps([task["labels"][row[first[word]].argmax()] for word in sorted(first)]))
    elif task["kind"] == "regression":
        print(json.dumps(task["mean"] + task["deviation"] * row[0, 0].item()))
    else:
        shares = row[0].sigmoid() if task["kind"] == "multi-label" else row[0].softmax(0)
        print(json.dumps(dict(zip(task["labels"], shares.tolist()))))
assert not {"hyperloader", "transformers"} & sys.modules.keys()
"""


@pytest.mark.slow
def test_all_tasks_compiled_answer_as_predict_does(call, tmp_path):
    """Tags, labels, values and pairs of one batch, in a process with torch and tokenizers alone."""
    values = kinds_run.write(tmp_path)
    values["training"] |= {"steps": 4, "eval_steps": 4, "valid_tags": False}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**values, "output": "run"}))
    assert call("train", tmp_path / "run.yaml").exit_code == 0
    run, out = small_run.with_random_heads(tmp_path / "run"), tmp_path / "out"
    result = call("export", run, out, "--format", "aot-inductor")
    assert result.exit_code == 0, result.output
    names = [task["name"] for task in json.loads((out / "tasks.json").read_text())["tasks"]]
    asked, expected = [], []
    for number, task in enumerate(names):
        lines = (tmp_path / "data" / task / "test.jsonl").read_text().splitlines()[:4]
        records = [json.loads(line) for line in lines]
        records = [{key: one[key] for key in ("tokens", "text", "text_pair") if key in one} for one in records]
        (tmp_path / "asked.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
        result = call("predict", run, tmp_path / "asked.jsonl", "--task", task)
        expected += [json.loads(line) for line in result.stdout.splitlines()]
        texts = [[one[key] for key in ("text", "text_pair") if key in one] or None for one in records]
        asked += [[number, one.get("tokens", []), given] for one, given in zip(records, texts, strict=True)]
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    command = [sys.executable, "-c", SERVED, str(out), str(tmp_path / "asked.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(expected) == 4 * len(names)
    for one, other in zip(found, expected, strict=True):
        if "tags" in other:
            assert repair_bio(one) == other["tags"]
        elif "value" in other:
            assert one == pytest.approx(other["value"], rel=1e-3)
        else:
            assert one == pytest.approx(other["scores"], abs=2e-4)
