"""`hyperloader predict`."""

import json
import os
import queue
import subprocess
import sys
import threading

import pytest

from hyperloader.cli.arriving import LONGEST
from hyperloader.cli.inputs import read
from hyperloader.data import check_bio
from hyperloader.data.bio import spans
from hyperloader.data.word_rule import split_at_spaces

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
    found = answers(target.read_text(encoding="utf-8"))
    assert [one["tokens"] for one in found] == [["play", "müsic"], [], ["play", "on"]]


@pytest.mark.parametrize(
    "tags", [["O", "B-song"], ["O", "S-song"], ["I-song", "I-artist"], [0, 1], ["O"], None, "no tags"]
)
def test_tags_in_the_input_are_no_help_whatever_they_are(call, run_folder, tags):
    line = json.dumps({"tokens": ["play", "rain"], "tags": tags})
    bare = json.dumps({"tokens": ["play", "rain"]})
    result = call("predict", run_folder, "--task", "music", input=f"{line}\n{bare}\n")
    first, second = answers(result.stdout)
    assert first.pop("line") == 1
    assert second.pop("line") == 2
    assert first.pop("input", {"tags": first["tags"]}) == {"tags": tags}
    assert first == second


def test_an_answer_keeps_the_link_to_its_input(call, run_folder, tmp_path):
    records = [
        {"id": "a7", "tokens": ["play", "silver", "river"], "meta": {"page": 3}, "line": 99, "input": "kept"},
        {"tokens": [], "id": "empty"},
        {"text": "play  it, now", "tokens": ["play", "it", ",", "now"]},
        {"text": "another text", "tokens": ["play", "it"]},
        {"text": "wake me  up!", "label": [[0, 4, "x"]]},
    ]
    lines = [json.dumps(one) for one in records]
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join([lines[0], "", *lines[1:]]) + "\n")
    result = call("predict", run_folder, source, "--task", "music")
    assert result.exit_code == 0, result.output
    first, blank, empty, aligned, other, text = answers(result.stdout)
    assert [one["line"] for one in (first, blank, empty, aligned, other, text)] == [1, 2, 3, 4, 5, 6]
    assert (first["id"], first["meta"], first["task"]) == ("a7", {"page": 3}, "music")
    assert first["input"] == {"line": 99, "input": "kept"}
    assert first["text"] == "play silver river"
    for one in (blank, empty):
        assert (one["tokens"], one["tags"], one["spans"], one["offsets"]) == ([], [], [], [])
    assert empty["id"] == "empty"
    assert (aligned["text"], aligned["offsets"]) == ("play  it, now", [[0, 4], [6, 8], [8, 9], [10, 13]])
    assert "input" not in aligned
    assert (other["text"], other["input"]) == ("play it", {"text": "another text"})
    assert text["text"] == "wake me  up!"
    assert text["tokens"] == ["wake", "me", "up", "!"]
    assert text["offsets"] == [[0, 4], [5, 7], [9, 11], [11, 12]]
    assert text["label"] == [[0, 4, "x"]]


def test_spans_have_characters_and_a_score(call, run_folder, monkeypatch):
    from hyperloader.training.tagging import Tagged

    def tag(run, sentences, task, batch_size):
        for words in sentences:
            yield Tagged(["O", "B-song", "I-song", "B-artist"][: len(words)], [0.9, 0.8, 0.5, 0.7][: len(words)])

    monkeypatch.setattr("hyperloader.training.saved_run.tag", tag)
    (found,) = answers(call("predict", run_folder, "--task", "music", input="play  silver\triver omar \n").stdout)
    assert found["text"] == "play  silver\triver omar "
    assert found["offsets"] == [[0, 4], [6, 12], [13, 18], [19, 23]]
    assert found["spans"] == [
        {"label": "song", "start": 6, "end": 18, "text": "silver\triver", "score": round(0.4**0.5, 4)},
        {"label": "artist", "start": 19, "end": 23, "text": "omar", "score": 0.7},
    ]


def test_the_spans_are_those_of_the_tags(call, run_folder):
    for one in answers(call("predict", run_folder, "--task", "music", input="\n".join(SENTENCES)).stdout):
        assert [span["label"] for span in one["spans"]] == [label for label, _, _ in spans(one["tags"])]
        for span in one["spans"]:
            assert span["text"] == one["text"][span["start"] : span["end"]]
            assert 0 < span["score"] <= 1


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("a.jsonl", '{"words": ["play", "it"], "text": "other"}', "tokens=words"),
        ("a.json", '[{"body": "play it"}]', "text=body"),
        ("a.conll", "7 play x\n9 it y\n", "tokens=2"),
        ("a.csv", "id,sent\n1,play it\n", "tokens=sent"),
        ("-", '{"words": ["play", "it"]}', "tokens=words"),
    ],
)
def test_columns_say_what_stands_where(call, run_folder, tmp_path, name, content, columns):
    source = name if name == "-" else tmp_path / name
    if name != "-":
        source.write_text(content)
    result = call("predict", run_folder, source, "--task", "music", "--columns", columns, input=content)
    assert result.exit_code == 0, result.output
    assert [one["tokens"] for one in answers(result.stdout)] == [["play", "it"]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("token=2", "unknown --columns 'token'; did you mean 'tokens'?"),
        ("tokens", "--columns must have the form tokens=2,tags=4, got 'tokens'"),
        ("tokens=1,tokens=2", "--columns must have the form tokens=2,tags=4, got 'tokens=1,tokens=2'"),
        ("tokens=2", "<stdin>:1: --columns goes with JSON, CSV and columns, and this is plain text"),
    ],
)
def test_columns_that_say_nothing_are_refused(fails, run_folder, columns, message):
    line = fails("predict", run_folder, "--task", "music", "--columns", columns, input="play it\n")
    assert line == f"error: {message}"


def test_a_folder_of_splits_is_no_input(fails, run_folder, tmp_path):
    line = fails("predict", run_folder, tmp_path, "--task", "music")
    assert line.endswith("a folder must hold seq.in to be read as one file; name a file in it")


COLUMNS = "play S-x\nit O\n\nstop U-y\n"


@pytest.mark.parametrize(
    ("name", "content", "words", "lines"),
    [
        ("in.conll", COLUMNS, [], [1, 4]),
        ("in.iob2", "-DOCSTART- O\n\n" + COLUMNS, [], [3, 6]),
        ("in.conll", "play\nit\n\nstop\n", [], [1, 4]),
        ("in.csv", 'tokens,tags\nplay it,nonsense\n"stop",\n', [], [2, 3]),
        ("in.csv", "sentence,token\n1,play\n1,it\n2,stop\n", [], [2, 4]),
        ("in.json", '[\n{"tokens": ["play", "it"]},\n{"tokens": ["stop"]}]', [], [2, 3]),
        ("in.txt", COLUMNS, ["--format", "conll"], [1, 4]),
        ("in.txt", "play it\r\rstop", [], [1, 2, 3]),
        ("in.txt", "\ufeffplay\u00a0it\n\ufeffstop\n", [], [1, 2]),
    ],
)
def test_what_train_reads_is_read(call, run_folder, tmp_path, name, content, words, lines):
    source = tmp_path / name
    source.write_bytes(content.encode())
    result = call("predict", run_folder, source, "--task", "music", *words)
    assert result.exit_code == 0, result.output
    found = answers(result.stdout)
    assert [one["line"] for one in found] == lines
    assert [one["tokens"] for one in found if one["tokens"]] == [["play", "it"], ["stop"]]


def test_a_folder_of_parallel_files(call, fails, run_folder, tmp_path):
    (tmp_path / "seq.in").write_text("play it\nstop\n")
    found = answers(call("predict", run_folder, tmp_path, "--task", "music").stdout)
    assert [(one["line"], one["tokens"]) for one in found] == [(1, ["play", "it"]), (2, ["stop"])]
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in fails("predict", run_folder, tmp_path / "empty", "--task", "music")


def test_columns_from_standard_input(call, run_folder):
    found = answers(call("predict", run_folder, "--task", "music", "--format", "conll", input=COLUMNS).stdout)
    assert [one["tokens"] for one in found] == [["play", "it"], ["stop"]]


def test_columns_that_are_read_as_text_are_said(call, run_folder):
    result = call("predict", run_folder, "--task", "music", input="play O\nrain B-song\n")
    assert "--format conll" in result.stderr
    assert "--format conll" not in call("predict", run_folder, "--task", "music", input="play on\nplay it\n").stderr


def test_words_are_parted_from_punctuation_on_demand(call, run_folder):
    text = "Play it, now!\n"

    def tokens(*words, line=text):
        (found,) = answers(call("predict", run_folder, "--task", "music", *words, input=line).stdout)
        assert found["tokens"] == [found["text"][start:end] for start, end in found["offsets"]]
        return found["tokens"]

    parted = ["Play", "it", ",", "now", "!"]
    assert tokens() == tokens("--tokenize", "spaces") == ["Play", "it,", "now!"]
    assert tokens("--tokenize", "words") == parted
    as_json = json.dumps({"text": "Play it, now!"})
    assert tokens(line=as_json) == tokens("--tokenize", "words", line=as_json) == parted
    assert tokens("--tokenize", "spaces", line=as_json) == ["Play", "it,", "now!"]


def test_the_rule_of_an_earlier_run_comes_from_its_data(call, fails, run_folder, config_file):
    kept = (run_folder / "words.json").read_bytes()
    (run_folder / "words.json").unlink()
    words = ["predict", run_folder, "--task", "music", "--tokenize", "words"]
    data = config_file.parent / "data"
    try:
        (found,) = answers(call(*words, input="stop!").stdout)
        assert found["tokens"] == ["stop", "!"]
        data.rename(data.with_name("away"))
        assert "--tokenize spaces" in fails(*words, input="stop!")
        (run_folder / "words.json").write_text("{")
        assert "words.json" in fails(*words, input="stop!")
    finally:
        (run_folder / "words.json").write_bytes(kept)
        if not data.exists():
            data.with_name("away").rename(data)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"\xff\xfep\x00l\x00", "UTF-16"),
        (b"p\x00l\x00", "binary"),
        (b"\x1f\x8b\x08\x08", "0x8b is not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0", "0x89 is not UTF-8"),
        (b"a" * (LONGEST + 70_000), "at most 4 MiB"),
    ],
    ids=["utf-16", "zeros", "gzip", "png", "huge"],
)
def test_what_is_no_text_is_one_line(fails, run_folder, tmp_path, content, part):
    for name in ("in.txt", "in.bin"):
        source = tmp_path / name
        source.write_bytes(content)
        line = fails("predict", run_folder, source, "--task", "music")
        assert line.startswith(f"error: {source}:1: ")
        assert part in line


def test_half_a_surrogate_pair_in_another_key_is_kept(call, run_folder):
    line = '{"tokens": ["play"], "note": "\\ud800 \u00e9"}'
    (found,) = answers(call("predict", run_folder, "--task", "music", input=line).stdout)
    assert found["note"] == "\ud800 \u00e9"


@pytest.mark.parametrize(
    ("bad", "part"),
    [
        (b'{"tokens": ["a"', "invalid JSON"),
        (b'{"words": ["a"]}', "'tokens'"),
        (b'{"tokens": [{"id": 3}]}', "'text'"),
        (b'{"tokens": 3}', "list of text"),
        (b'{"text": "\\ud800"}', "surrogate"),
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
    assert "'cvs'" in fails("predict", run_folder, source, "--task", "music", "--format", "cvs", "--output", target)
    assert "'word'" in fails("predict", run_folder, source, "--task", "music", "--tokenize", "word", "--output", target)
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    assert "bad.csv:1" in fails("predict", run_folder, tmp_path / "bad.csv", "--task", "music", "--output", target)
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


def taken(pipe: Pipe, name: str, format: str) -> list:
    """The words and faults of every batch that comes without waiting."""
    batches = read(pipe, name, format, split_at_spaces, split_at_spaces)
    return [([one.tokens for one in found], fault) for found, fault in batches]


def test_lines_are_taken_as_they_arrive_however_they_are_cut():
    pipe = Pipe(b"a b\nc", b" d\r", b"\ne\rf\n", b"", b"never")
    assert taken(pipe, "<stdin>", "text") == [([["a", "b"]], None), ([["c", "d"], ["e"], ["f"]], None)]
    assert taken(Pipe(b"a\r", b"b\r"), "<stdin>", "text") == [([["a"]], None), ([["b"]], None)]


def test_the_first_line_tells_the_format():
    assert taken(Pipe(b'\n {"tokens": ["a"]}\n'), "<stdin>", "auto")[0][0] == [[], ["a"]]
    assert taken(Pipe(b'a {"tokens"\n'), "<stdin>", "auto")[0][0] == [["a", '{"tokens"']]
    assert taken(Pipe(b"{a\n"), "<stdin>", "text")[0][0] == [["{a"]]
    assert taken(Pipe(b"a\n"), "x.jsonl", "auto")[0][1] is not None


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
                assert json.loads(lines.get(timeout=300))["tokens"] == sentence.split()
            process.stdin.close()
            assert process.wait(timeout=300) == 0
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
        assert process.wait(timeout=300) == 1
