"""What `hyperloader predict` reads: formats, columns, streams, and what it refuses."""

import pytest
from helpers.answers import COLUMNS, answers

from hyperloader.cli.arriving import LONGEST
from hyperloader.cli.inputs import read
from hyperloader.data.word_rule import split_at_spaces


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


def test_columns_that_are_read_as_text_are_warned_of(call, run_folder):
    result = call("predict", run_folder, "--task", "music", input="play O\nrain B-song\n")
    assert "--format conll" in result.stderr
    assert "--format conll" not in call("predict", run_folder, "--task", "music", input="play on\nplay it\n").stderr


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
