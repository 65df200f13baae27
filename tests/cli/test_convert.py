"""`hyperloader data convert`."""

import json

import pytest

IOBES = "0 Alan B-PER\n1 Turing E-PER\n\n0 in O\n1 Rome S-LOC\n"
BIO = [["B-PER", "I-PER"], ["O", "B-LOC"]]


def tags(path):
    return [json.loads(line)["tags"] for line in path.read_text().splitlines()]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "train.txt").write_text(IOBES)
    (folder / "eng.testb").write_text(IOBES)
    return folder


def test_a_file_becomes_a_file(call, folder, tmp_path):
    target = tmp_path / "new" / "out.jsonl"
    result = call("data", "convert", folder / "train.txt", target)
    assert result.exit_code == 0, result.output
    assert tags(target) == BIO
    assert "note: the tags are IOBES; 2 spans were converted to BIO" in result.stdout
    assert result.stdout.splitlines()[-1] == f"{target}: 2 sentences, 2 spans"
    assert [path.name for path in target.parent.iterdir()] == ["out.jsonl"]


def test_a_folder_becomes_a_folder_that_a_task_can_name(call, folder, tmp_path):
    result = call("data", "convert", folder, tmp_path / "out", "--validation", "50%", "--seed", 1)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "test.jsonl",
        "train.jsonl",
        "validation.jsonl",
    ]
    assert len(tags(tmp_path / "out" / "train.jsonl")) == len(tags(tmp_path / "out" / "validation.jsonl")) == 1
    (tmp_path / "tasks.yaml").write_text("tasks: [{name: t, path: out}]")
    assert call("data", "check", tmp_path / "tasks.yaml").exit_code == 0


def test_a_share_needs_a_train_part(fails, folder, tmp_path):
    (folder / "train.txt").unlink()
    assert "has no train (" in fails("data", "convert", folder, tmp_path / "out", "--validation", "50%")
    assert not (tmp_path / "out").exists()


def test_splits_that_are_not_there_are_left_out(call, folder, tmp_path):
    assert call("data", "convert", folder, tmp_path / "out").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["test.jsonl", "train.jsonl"]


def test_options_are_those_of_a_task(call, tmp_path):
    source = tmp_path / "a.conll"
    source.write_text("x 2 a\ny 1 b\n")
    result = call(
        "data",
        "convert",
        source,
        tmp_path / "b.jsonl",
        "--columns",
        "tokens=-1,tags=2",
        "--names",
        "O,B-x,I-x",
        "--tags",
        "repair",
    )
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "b.jsonl").read_text()) == {"tokens": ["a", "b"], "tags": ["B-x", "B-x"]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("in/train.txt", "out.conll"), "OUT must be a .jsonl file, got"),
        (("in", "out.jsonl"), "OUT must be a folder, as"),
        (("in", "in"), "there is something already"),
        (("nowhere", "out"), "does not exist; correct IN"),
        (("in/train.txt", "out.jsonl", "--tags", "iob1"), "train.txt:1: tag 1 'B-PER' follows no PER"),
        (("in/train.txt", "out.jsonl", "--tags", "bioes"), "repair, got 'bioes'; did you mean 'iobes'?"),
        (("in/train.txt", "out.jsonl", "--validation", "10%"), "--validation goes with a folder"),
        (("in/train.txt", "out.jsonl", "--columns", "tokens"), "--columns must have the form tokens=2,tags=4"),
        (("in/train.txt", "out.jsonl", "--columns", "word=1"), "unknown --columns 'word'; known are tokens"),
        (("in", "out", "--validation", "10%", "--train", "x.txt"), "has no x.txt for train; it holds eng.testb, train"),
        (("in", "out", "--validation", "dev.txt"), "has no dev.txt for validation; it holds eng.testb, train.txt"),
    ],
)
def test_nothing_is_written_where_something_is_wrong(fails, folder, tmp_path, words, message):
    source, target, *options = words
    assert message in fails("data", "convert", tmp_path / source, tmp_path / target, *options)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
