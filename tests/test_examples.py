"""Every script under examples/ runs as it stands, with a small random backbone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel, BertTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
WORDS = (
    "flights from new york to boston add bowie favourites play nina simone is there a flight denver wake me at seven i "
    "have two cats and dogs anna met bob carl"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small encoder and its tokenizer, in which the examples run one after the other."""
    folder = tmp_path_factory.mktemp("examples")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS.split())]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "encoder")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder / "encoder")
    return folder


def run(folder, name, *arguments, launch=()):
    command = [sys.executable, "-W", "error::FutureWarning", *launch, str(ROOT / "examples" / name), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_own_loop_then_a_new_task_then_serving(folder):
    assert "right tags: 100%" in run(folder, "own_loop.py", "encoder", "model")
    assert "the same to the bit: True" in run(folder, "new_task.py", "encoder", "model")
    served = run(folder, "serve_mixed.py", "encoder", "model")
    assert "'generated': 2, 'served': 2" in served
    difference = float(served.rsplit("differ by", 1)[1])
    assert 0 <= difference < 1e-4


@pytest.mark.slow
def test_many_tasks(folder):
    lines = run(folder, "many_tasks.py", "encoder", "thousand").splitlines()
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in lines[:3]]
    assert losses[2] < losses[0] / 2
    assert all(line.endswith("gradients of 4 of 1,000 tasks") for line in lines[:3])
    assert lines[3] == "a task that no batch had is the same to the bit: True"
    assert (folder / "thousand" / "model.safetensors").is_file()


def test_trainer(folder):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    assert "numbers, names after 8 steps" in run(folder, "trainer.py", "encoder", "trained")


@pytest.mark.slow
def test_compiled_run(folder):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    plain, compiled, graphs, losses = run(folder, "compiled_run.py", "encoder", "compiled").splitlines()
    assert plain.endswith(" s a step")
    assert compiled.endswith(" s of compiling")
    assert graphs == "graphs compiled: 2"
    assert int(losses.split()[3].rstrip("%:")) < 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "quantization"), [("torchao", "torchao-int8"), ("bitsandbytes", "bitsandbytes-nf4")]
)
def test_quantized(folder, package, quantization):
    pytest.importorskip(package, reason=f"{package} is not installed")
    layers, right, merged = run(folder, "quantized.py", "encoder", f"model-{quantization}", quantization).splitlines()
    assert layers == f"12 layers are {quantization}"
    assert right == "right tags: 100%, the same as before saving to the bit: True"
    assert float(merged.rsplit("differ by", 1)[1]) < 1e-4


@pytest.mark.slow
def test_half_precision(folder):
    trained, gradient, *losses, loaded = run(folder, "half_precision.py", "encoder", "half").splitlines()
    assert trained == "trained numbers are torch.float32"
    assert 0 < float(gradient.split()[4].rstrip("%")) < 3
    losses = [float(line.split("loss ")[1]) for line in losses]
    assert losses[-1] < losses[0] / 10
    assert loaded == "saved and loaded in torch.bfloat16, the same to the bit: True"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_processes(folder, how):
    import torch

    if not torch.distributed.is_available():
        pytest.skip("this build has no torch.distributed")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    lines = run(folder, "processes.py", "encoder", f"together-{how}", how, launch=torchrun).splitlines()
    assert lines == ["flights: right tags: 100%", "music: right tags: 100%"]


@pytest.mark.slow
def test_resumed_run(folder):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    said = run(folder, "resumed_run.py", "encoder", "resumed").splitlines()[-1]
    assert said == "ended with status 143, resumed; the same weights to the bit: True"


@pytest.mark.slow
@pytest.mark.parametrize("example", ["onnx_all_tasks.py", "aot_inductor_all_tasks.py"])
def test_all_tasks_in_one_file_without_this_package(folder, example):
    if example.startswith("onnx"):
        for package in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(package)
    import torch
    from transformers import BertTokenizerFast

    from hyperloader import HyperLoaderConfig, HyperLoaderModel
    from hyperloader.interop.onnx import save_onnx
    from hyperloader.interop.program import describe, save_compiled

    labels = {"music": ["O", "B-artist", "I-artist"], "alarm": ["O", "B-time"]}
    torch.manual_seed(0)
    model = HyperLoaderModel(
        BertModel.from_pretrained(folder / "encoder"), HyperLoaderConfig(tasks=list(labels), labels=labels)
    ).eval()
    (folder / "served").mkdir(exist_ok=True)
    if example.startswith("onnx"):
        save_onnx(model, folder / "served" / "model.onnx")
    else:
        save_compiled(model, folder / "served" / "compiled.pt2")
    (folder / "served" / "tasks.json").write_text(json.dumps(describe(model.hyperloader_config)))
    tokenizer = BertTokenizerFast.from_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "served")
    lines = run(folder, example, "served").splitlines()
    sentences = {"music": "play nina simone", "alarm": "wake me at seven"}
    for number, (line, (task, sentence)) in enumerate(zip(lines, sentences.items(), strict=True)):
        with torch.no_grad():
            logits = model(**tokenizer(sentence, return_tensors="pt"), task_ids=torch.tensor([number])).logits[0, 1:-1]
        said = [labels[task][label] for label in logits.argmax(-1).tolist()]
        assert line == f"{task}: {' '.join(f'{word}/{tag}' for word, tag in zip(sentence.split(), said, strict=True))}"


def test_operators(folder):
    difference = float(run(folder, "operators.py").rsplit("differ by", 1)[1])
    assert difference < 1e-4


def test_every_example_is_run():
    tests = Path(__file__).parent
    tested = "".join(path.read_text(encoding="utf-8") for path in (Path(__file__), tests / "serving" / "test_ray.py"))
    assert all(f'"{path.name}"' in tested for path in (ROOT / "examples").glob("*.py"))
