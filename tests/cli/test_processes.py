"""Several processes: evaluation and prediction in parts, resuming, and how they end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from helpers import small_run
from helpers.launched import cut, run, start
from helpers.quantized import with_library

from hyperloader import processes
from hyperloader.training.saved_run import load_run

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this build has no torch.distributed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def config_file(folder):
    """Of a run without dropout, 6 steps, 8 sentences a step on 2 processes."""
    values = small_run.write(folder) | {"output": "run"}
    sizes = folder / "bert" / "config.json"
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes.write_text(json.dumps(json.loads(sizes.read_text()) | without))
    options = {"steps": 6, "eval_steps": 6, "save_steps": 2, "batch_size": 4, "keep_checkpoints": 5}
    values["training"] |= options
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    return folder / "run.yaml"


def weights(folder):
    return load_run(folder).model.trainable_state()


@pytest.mark.slow
def test_scores_and_answers_are_those_of_one_process(config_file, folder):
    output = folder / "scored"
    train = ("train", config_file, "--output", output)
    run(0, *train)
    small_run.with_random_heads(output)
    table, _ = run(0, "evaluate", output)
    data = folder / "data" / "music" / "test.jsonl"
    lines = folder / "nine.jsonl"
    lines.write_text("".join(data.read_text().splitlines(keepends=True)[:9]))
    run(0, "predict", output, lines, "--output", folder / "one.jsonl")
    expected = [json.loads(line) for line in (folder / "one.jsonl").read_text().splitlines()]
    assert len(expected) == 18  # of both tasks
    for count in (2, 4):  # 20 sentences, 18 questions: the ends are uneven
        assert run(count, "evaluate", output)[0] == table
        _, errors = run(count, "predict", output, lines, "--output", folder / "several.jsonl")
        assert errors.count("9 sentences") == 1
        found = [json.loads(line) for line in (folder / "several.jsonl").read_text().splitlines()]
        for one, other in zip(found, expected, strict=True):
            assert {key: one[key] for key in ("line", "task", "tags")} == {
                key: other[key] for key in ("line", "task", "tags")
            }
    _, errors = run(2, "predict", output, status=1)
    assert errors.count("error: input must be a file or a folder for 2 processes, got standard input") == 1


@pytest.mark.slow
def test_resuming_on_other_numbers_of_processes(config_file, folder):
    output = folder / "resumed"
    train = ("train", config_file, "--output", output)
    said, errors = run(2, *train)
    assert said.count("6 steps, 8 sentences a step (batches of 4, 2 processes)") == 1
    assert said.count("step 6 of 6") == said.count("metrics  ") == 1
    assert "find_unused_parameters" not in errors
    through = weights(output)
    cut(output, 4)
    run(2, *train, "--resume")
    assert all(torch.equal(value, through[name]) for name, value in weights(output).items())
    for count, size, step in ((1, 8, 4), (4, 2, 2)):
        cut(output, step)
        run(count, *train, "--resume", "--set", f"training.batch_size={size}")
        torch.testing.assert_close(weights(output), through, rtol=1e-3, atol=1e-5)


COUNTED = """
import functools, sys
import torch
from torch._dynamo.utils import counters
from hyperloader.cli.commands import app
torch.compile = functools.partial(torch.compile, backend="aot_eager")  # which takes no minutes
try:
    app(sys.argv[1:])
finally:
    print(f"compiled {counters['stats']['unique_graphs']} graphs", file=sys.stderr)
"""


@pytest.mark.slow
def test_a_compiled_run(config_file, folder):
    (folder / "counted.py").write_text(COUNTED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run(2, "train", config_file, "--output", folder / "eager")
    compiled = ("train", config_file, "--output", folder / "compiled", "--set", "training.compile=true")
    said, errors = run(2, *compiled, program=[*launch, folder / "counted.py"])
    assert errors.count("compiled 2 graphs\n") == 2  # in each process, for training and for validation
    assert "goes on without it" not in errors
    assert said.count(" of compiling\n") == 1
    torch.testing.assert_close(weights(folder / "compiled"), weights(folder / "eager"), rtol=1e-3, atol=1e-5)


UNCOMPILED = """
import os, sys
import torch
from torch._dynamo.exc import TorchDynamoException
from hyperloader.cli.commands import app
def gives_up(*arguments, **options):
    raise TorchDynamoException("no graph here")
compile = torch.compile
torch.compile = lambda model, **options: gives_up if os.environ["RANK"] in ALONE else compile(model, backend="eager")
app(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("alone", ["1", "0 1"])
def test_a_compile_that_falls_back_says_so_once(config_file, folder, alone):
    """Whichever process it is that does."""
    (folder / "uncompiled.py").write_text(UNCOMPILED.replace("ALONE", repr(alone)))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = ("train", config_file, "--output", folder / f"uncompiled-{len(alone)}", "--set", "training.compile=true")
    _, errors = run(2, *words, program=[*launch, folder / "uncompiled.py"])
    assert errors.count("goes on without it: no graph here\n") == 1


@pytest.mark.slow
def test_sparse_gradients_of_several_processes(config_file, folder):
    sparse = ("train", config_file, "--set", "model.sparse_gradients=true")
    run(0, *sparse, "--output", folder / "sparse", "--set", "training.batch_size=8")
    run(2, *sparse, "--output", folder / "rows")
    torch.testing.assert_close(weights(folder / "rows"), weights(folder / "sparse"), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@with_library(["torchao-int8", "torchao-int4", "bitsandbytes-int8", "bitsandbytes-nf4"])
def test_quantised_backbones(config_file, folder, quantization):
    train = ("train", config_file, "--set", f"backbone_quantization={quantization}")
    run(0, *train, "--output", folder / f"{quantization}-one", "--set", "training.batch_size=8")
    run(2, *train, "--output", folder / f"{quantization}-two")
    one, two = (weights(folder / f"{quantization}-{count}") for count in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-5)


def of_process(number, output):
    """The id of the process with this number that trains in ``output``."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words, names = (path / "cmdline").read_bytes(), (path / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile, or is another user's
            continue
        if f"RANK={number}".encode() in names and str(output).encode() in words:
            return int(path.name)
    raise AssertionError("no such process")


def killed(config_file, output, restarts):
    """What is said when process 1 is killed behind the first checkpoint, and the exit status."""
    options = ["--set", "training.steps=200", "--set", "training.eval_steps=200", "--set", "training.save_steps=20"]
    process = start(2, "train", config_file, "--output", output, *options, restarts=restarts)
    until = time.monotonic() + 120
    while not (output / "checkpoint-20").is_dir():
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    os.kill(of_process(1, output), signal.SIGKILL)
    killed_at = time.monotonic()
    said, errors = process.communicate(timeout=200)
    return said, errors, process.returncode, time.monotonic() - killed_at


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_a_process_that_dies(config_file, folder):
    output = folder / "died"
    _, errors, status, seconds = killed(config_file, output, restarts=0)
    assert status != 0 and seconds < 20
    assert errors.count("error: ") == 1
    saved = output / "config.yaml"
    assert f"resume with: torchrun --nproc-per-node 2 -m hyperloader.cli train {saved} --resume\n" in errors
    assert "error: process 1 of 2 died without a word, killed from outside or for want of memory; " in errors
    run(2, "train", saved, "--resume")
    assert json.loads((output / "metrics.json").read_text())["steps"] == 200


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_torchrun_resumes_by_itself(config_file, folder):
    output = folder / "restarted"
    said, errors, status, _ = killed(config_file, output, restarts=1)
    assert status == 0, errors[-3000:]
    assert errors.count("error: process 1 of 2 died") == 1
    assert said.count("step 200 of 200") == 1


@pytest.fixture
def among_others(monkeypatch):
    """This process as the first of three that torchrun has started."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)
    names = {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    for name, value in (names | {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}).items():
        monkeypatch.setenv(name, value)
    processes._store.cache_clear()
    yield monkeypatch
    processes._store.cache_clear()


def test_one_speaks_and_the_dead_are_named(among_others):
    monkeypatch = among_others
    assert [processes.speaks_first(), processes.speaks_first()] == [True, False]
    assert [processes.speaks_first("compile"), processes.speaks_first("compile")] == [True, False]
    monkeypatch.setattr(processes, "_SECONDS", 0.0)
    assert processes.died() == []  # they do not work together yet
    monkeypatch.setattr(processes, "_distributed", lambda: torch.distributed)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    for number, process in enumerate((os.getpid(), os.getpid(), child.pid)):
        monkeypatch.setenv("RANK", str(number))
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        processes.announce()
    monkeypatch.setenv("RANK", "0")
    assert processes.died() == [2]


def test_what_has_begun_is_known_after_a_restart(among_others):
    processes.mark_begun("run")
    assert not processes.has_begun("run")
    among_others.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    processes._store.cache_clear()
    assert processes.has_begun("run") and not processes.has_begun("another")
    assert processes.speaks_first()


@pytest.mark.parametrize(
    ("command", "words"), [("export", ("run", "out", "--format", "ours")), ("data check", ("run.yaml",))]
)
def test_commands_that_one_process_runs(fails, monkeypatch, command, words):
    monkeypatch.setenv("WORLD_SIZE", "2")
    expected = f"error: {command} must run in one process, got 2; start it without torchrun"
    assert fails(*command.split(), *words) == expected


@pytest.mark.parametrize("words", ["--help", "--version", "data --help", "data check --help", "serve --help"])
def test_help_is_for_all_and_from_one_process(call, monkeypatch, words):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        result = call(*words.split())
        assert (result.exit_code, bool(result.stdout)) == (0, rank == "0"), result.output


def test_another_process_keeps_quiet(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with processes.main_alone_prints():
        print("nothing")
    print("something")
    assert capsys.readouterr().out == "something\n"
