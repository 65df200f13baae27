"""`hyperloader predict`."""

import json
import os
import queue
import subprocess
import sys
import threading

import pytest

from hyperloader.cli.predict import read
from hyperloader.data import check_bio

SENTENCES = ("play silver river by carlos", "add midnight garden", "wake me up at six")


def answers(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_one_answer_a_sentence_in_order(call, run_folder, form):
    as_json = [json.dumps({"tokens": sentence.split()}) for sentence in SENTENCES]
    lines = SENTENCES if form == "text" else as_json
    result = call("predict", run_folder, "--task", "music", input="\n".join(lines) + "\n")
    assert result.exit_code == 0, result.output
    found = answers(result.stdout)
    assert [" ".join(one["tokens"]) for one in found] == list(SENTENCES)
    for one in found:
        assert len(one["tags"]) == len(one["tokens"])
        check_bio(one["tags"])


def test_files_in_and_out(call, run_folder, tmp_path):
    source, target = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_bytes("\ufeffplay müsic\r\n\r\nplay on".encode())  # a byte-order mark, an empty line, no end of line
    result = call("predict", run_folder, source, "--task", "calendar", "--output", target)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert [one["tokens"] for one in answers(target.read_text(encoding="utf-8"))] == [["play", "müsic"], ["play", "on"]]


def test_tags_in_the_input_are_no_help(call, run_folder):
    line = json.dumps({"tokens": ["play", "rain"], "tags": ["O", "B-song"]})
    bare = json.dumps({"tokens": ["play", "rain"]})
    result = call("predict", run_folder, "--task", "music", input=f"{line}\n{bare}\n")
    first, second = answers(result.stdout)
    assert first == second


@pytest.mark.parametrize(
    ("bad", "part"),
    [
        (b'{"tokens": ["a"', "invalid JSON"),
        (b'{"words": ["a"]}', "'tokens'"),
        (b'{"tokens": []}', "empty"),
        (b'{"tokens": ["a b"]}', "white space"),
        (b'{"tokens": ["\xff"]}', "0xff is not UTF-8"),
    ],
)
def test_a_bad_line_is_named_and_the_ones_before_it_are_answered(call, run_folder, tmp_path, bad, part):
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'{"tokens": ["play", "on"]}\n{"tokens": ["stop"]}\n' + bad + b'\n{"tokens": ["never"]}\n')
    result = call("predict", run_folder, source, "--task", "music")
    assert result.exit_code == 1
    assert [one["tokens"] for one in answers(result.stdout)] == [["play", "on"], ["stop"]]
    assert result.stderr.startswith(f"error: {source}:3: ")
    assert part in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_what_is_wrong_is_said_before_anything_is_written(fails, run_folder, tmp_path):
    source, target = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("play on\n")
    target.write_text("kept")
    assert "'musik'" in fails("predict", run_folder, source, "--task", "musik", "--output", target)
    assert str(tmp_path) in fails("predict", tmp_path, source, "--task", "music", "--output", target)
    assert "none.txt" in fails("predict", run_folder, tmp_path / "none.txt", "--task", "music", "--output", target)
    assert "'csv'" in fails("predict", run_folder, source, "--task", "music", "--format", "csv", "--output", target)
    assert target.read_text() == "kept"
    assert "another file" in fails("predict", run_folder, source, "--task", "music", "--output", source)
    assert source.read_text() == "play on\n"
    assert "nowhere" in fails("predict", run_folder, source, "--task", "music", "--output", tmp_path / "nowhere" / "x")


class Pipe:
    """What arrives on a pipe, one write at a time."""

    def __init__(self, *writes: bytes):
        self.writes = list(writes)

    def read1(self, size: int) -> bytes:
        return self.writes.pop(0) if self.writes else b""


def test_lines_are_taken_as_they_arrive_however_they_are_cut():
    pipe = Pipe(b"a b\nc", b" d\ne\n", b"", b"never")
    found = list(read(pipe, "<stdin>", "text"))
    assert found == [([("a", "b")], None), ([("c", "d"), ("e",)], None)]


def test_the_first_line_tells_the_format():
    assert next(read(Pipe(b'\n {"tokens": ["a"]}\n'), "<stdin>", "auto"))[0] == [("a",)]
    assert next(read(Pipe(b'a {"tokens"\n'), "<stdin>", "auto"))[0] == [("a", '{"tokens"')]
    assert next(read(Pipe(b"{a\n"), "<stdin>", "text"))[0] == [("{a",)]
    assert next(read(Pipe(b"a\n"), "x.jsonl", "auto"))[1] is not None


def test_answers_appear_while_input_is_still_being_written(run_folder):
    words = [sys.executable, "-m", "hyperloader.cli", "predict", str(run_folder), "--task", "music"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, env=environment) as process:
        lines: queue.Queue[bytes] = queue.Queue()
        reader = threading.Thread(target=lambda: [lines.put(line) for line in process.stdout], daemon=True)
        reader.start()
        try:
            for sentence in SENTENCES:
                process.stdin.write(sentence.encode() + b"\n")
                process.stdin.flush()
                assert json.loads(lines.get(timeout=120))["tokens"] == sentence.split()
            process.stdin.close()
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()


def test_a_reader_that_leaves_is_no_error(run_folder, tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("play on\n" * 3000)
    words = [sys.executable, "-m", "hyperloader.cli", "predict", str(run_folder), str(source), "--task", "music"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HYPERLOADER_NATIVE": "none"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 1
