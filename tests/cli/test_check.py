"""`hyperloader data check`."""

import pytest

from hyperloader.cli.check import summary
from hyperloader.data import Sentence, Task, report_rows


def test_it_prints_a_row_for_each_split(call, config_file):
    text = call("data", "check", config_file.parent / "data" / "tasks.yaml").stdout
    rows = [line.split()[:3] for line in text.splitlines()]
    assert ["music", "train", "40"] in rows
    assert ["calendar", "test", "10"] in rows


def test_the_table_is_aligned_and_ends_with_notes_and_warnings():
    short, long = Sentence(("a", "b"), ("B-x", "I-x")), Sentence(("d",) * 1200, ("B-x", "B-y") * 600)
    task = Task("t", [short], [short], [long], ["O"], ["t: look here"], ["t: read so"])
    lines = summary([task]).splitlines()
    assert lines[0].split() == list(report_rows([task])[0])
    assert lines[4].startswith("t     test")
    assert "1,200" in lines[4]
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[5:] == ["note: t: read so", "warning: t: look here"]


def test_with_a_backbone_it_counts_windows(call, config_file):
    folder = config_file.parent
    result = call("data", "check", folder / "data" / "tasks.yaml", "--backbone", folder / "bert", "--max-length", 16)
    assert result.exit_code == 0, result.output
    assert "windows" in result.stdout


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["tasks.yaml:1:", "empty"]),
        (b"tasks: [{name: a, path: [", ["tasks.yaml:1:", "YAML"]),
        (b"tasks:\n  - {nam: a, path: x}\n", ["tasks.yaml:2:", "'nam'", "'name'"]),
        (b"tasks:\n  - {name: a, path: nowhere}\n", ["tasks.yaml:2:", "nowhere", "does not exist"]),
        (b"tasks:\n  - {name: a, path: $SURELY_NOT_SET/x}\n", ["tasks.yaml:2:", "SURELY_NOT_SET"]),
        (b"tasks:\n  - {name: \xff, path: x}\n", ["tasks.yaml:2:", "UTF-8"]),
    ],
)
def test_a_bad_task_file_is_one_line_with_its_place(fails, tmp_path, content, parts):
    path = tmp_path / "tasks.yaml"
    path.write_bytes(content)
    line = fails("data", "check", path)
    for part in parts:
        assert part in line


def test_a_missing_task_file(fails, tmp_path):
    assert "none.yaml" in fails("data", "check", tmp_path / "none.yaml")


def test_a_bad_line_of_data_is_named(fails, tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text('{"tokens": ["x"], "tags": ["O"]}\n')
    (folder / "test.jsonl").write_text('{"tokens": ["x"], "tags": ["O"]}\n{"tokens": ["x", "y"], "tags": ["O"]}\n')
    (tmp_path / "tasks.yaml").write_text("tasks: [{name: a, path: a}]\n")
    assert "test.jsonl:2:" in fails("data", "check", tmp_path / "tasks.yaml")


def test_the_file_of_a_run_is_checked_too(call, fails, config_file):
    assert "music" in call("data", "check", config_file).stdout
    assert "must be a YAML file such as tasks: [" in fails("data", "check", config_file.parent)
