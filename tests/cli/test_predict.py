"""`hyperloader predict`."""

import json
import os
import queue
import subprocess
import sys
import threading

import pytest
from helpers.answers import answers

from hyperloader.data import check_bio
from hyperloader.data.bio import spans

SENTENCES = ("play silver river by carlos", "add midnight garden", "wake me up at six")


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
def test_tags_in_the_input_are_ignored(call, run_folder, tags):
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

    def tagged(formulation, examples, answers):
        return [Tagged(["O", "B-song", "I-song", "B-artist"], [0.9, 0.8, 0.5, 0.7])]

    monkeypatch.setattr("hyperloader.serving.forms.tagged", tagged)
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
        (data / "calendar").rename(data / "no calendar")
        assert call(*words, input="stop!").exit_code == 0  # the data of another task are not read
        (data / "no calendar").rename(data / "calendar")
        data.rename(data.with_name("away"))
        assert "--tokenize spaces" in fails(*words, input="stop!")
        (run_folder / "words.json").write_text("{")
        assert "words.json" in fails(*words, input="stop!")
    finally:
        (run_folder / "words.json").write_bytes(kept)
        if not data.exists():
            data.with_name("away").rename(data)


@pytest.mark.parametrize(
    ("bad", "part"),
    [
        (b'{"tokens": ["a"', "invalid JSON"),
        (b'{"words": ["a"]}', "'tokens'"),
        (b'{"tokens": [{"id": 3}]}', "'text'"),
        (b'{"tokens": 3}', "list of text"),
        (b'{"text": "\\ud800"}', "surrogate"),
        (b'{"tokens": ["a b"]}', "white space"),
        (b'{"tokens": ["a"], "task": "musik"}', "task must be one of music, got 'musik'; did you mean 'music'?"),
        (b'{"tokens": ["a"], "task": "calendar"}', "task must be one of music, got 'calendar'"),
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


def test_errors_are_reported_before_anything_is_written(fails, run_folder, tmp_path):
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


def test_a_closed_pipe_is_no_error(run_folder, tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("play on\n" * 3000)
    words = [sys.executable, "-m", "hyperloader.cli", "predict", str(run_folder), str(source), "--task", "music"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HYPERLOADER_NATIVE": "none"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=300) == 1
