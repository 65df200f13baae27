"""A long run under two processes that are killed now and then: same end; memory and time of a step do not grow."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from helpers import small_run

from hyperloader.training.saved_run import load_run

ROOT = Path(__file__).resolve().parents[2]
STEPS, SAVED, KILLED = 2000, 100, (300, 900, 1500)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this build has no torch.distributed"),
    pytest.mark.skipif(sys.platform != "linux", reason="processes and their memory are found in /proc"),
]


def launched(*words, restarts):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", f"--max-restarts={restarts}"]
    command = [sys.executable, *launch, "-m", "hyperloader.cli", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def workers(launcher):
    """The ids of the processes that the launcher has started, by their number."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher.pid:
                names = dict(one.split(b"=", 1) for one in (path / "environ").read_bytes().split(b"\0") if b"=" in one)
                found[int(names[b"RANK"])] = int(path.name)
        except (OSError, KeyError):  # it has ended meanwhile, or does not train
            continue
    return found


def megabytes(process):
    """The resident memory of a process."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def processor_seconds(process):
    """That a process has computed since it began, in all of its threads."""
    words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def last_checkpoint(output):
    return max((int(one.name.split("-")[1]) for one in output.glob("checkpoint-*[0-9]")), default=0)


def trained(config, output, kills=(), restarts=0):
    """Train to the end; returns what each process has used at every checkpoint since its start: (start, number,
    megabytes of the one and the other, processor seconds of the one and the other)."""
    left, words, measured = list(kills), ["train", config, "--output", output], []
    launcher, start, seen = launched(*words, restarts=restarts), 0, 0
    until = time.monotonic() + 1500
    while launcher.poll() is None or launcher.returncode:
        assert time.monotonic() < until
        if launcher.poll() is not None:  # the launcher starts nothing anew any more
            assert "died without a word" in launcher.stderr.read()
            launcher = launched(*words, "--resume", restarts=0)
        step, numbers = last_checkpoint(output), workers(launcher)
        if step > seen and len(numbers) == 2:
            try:
                used = [[use(numbers[number]) for number in (0, 1)] for use in (megabytes, processor_seconds)]
                measured.append((start, step, *used))
            except (OSError, IndexError):  # it has ended meanwhile
                continue
            seen = step
        if left and step >= left[0] and len(numbers) == 2:
            os.kill(numbers[1], signal.SIGKILL)
            left.pop(0)
            start += 1
            while workers(launcher).get(1) == numbers[1] and launcher.poll() is None:
                time.sleep(0.1)
        time.sleep(0.2)
    assert not left
    return measured


def test_two_thousand_steps_with_kills(tmp_path):
    values = small_run.write(tmp_path)
    sizes = tmp_path / "bert" / "config.json"
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes.write_text(json.dumps(json.loads(sizes.read_text()) | without))
    values["training"] |= {"steps": STEPS, "eval_steps": 500, "save_steps": SAVED, "log_steps": 50, "batch_size": 4}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(values | {"output": "run"}))
    through = trained(config, tmp_path / "through")
    quarter = len(through) // 4
    for number in (0, 1):
        of_process = [row[2][number] for row in through]
        first, last = statistics.median(of_process[:quarter]), statistics.median(of_process[-quarter:])
        print(f"process {number}: {first:.1f} MB in the first quarter of the steps, {last:.1f} MB in the last")
        assert last < first * 1.03 + 5
        a_step = [(now[3][number] - before[3][number]) / (now[1] - before[1]) for before, now in pairwise(through)]
        first, last = statistics.median(a_step[:quarter]), statistics.median(a_step[-quarter:])
        print(f"process {number}: {1e3 * first:.1f} ms a step in the first quarter, {1e3 * last:.1f} ms in the last")
        assert last < first * 1.15
    killed = trained(config, tmp_path / "killed", KILLED, restarts=1)
    print("killed:", *(f"start {start} step {step}: {one:.1f} {other:.1f}" for start, step, (one, other), _ in killed))
    peak = max(map(max, (row[2] for row in through)))
    assert max(map(max, (row[2] for row in killed))) < peak * 1.03 + 5
    expected = load_run(tmp_path / "through").model.trainable_state()
    found = load_run(tmp_path / "killed").model.trainable_state()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    steps = [json.loads((tmp_path / name / "metrics.json").read_text())["steps"] for name in ("through", "killed")]
    assert steps == [STEPS, STEPS]
