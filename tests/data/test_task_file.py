from pathlib import Path

import pytest

from hyperloader.data import DataError
from hyperloader.data.task_file import entries_from, entry_from, read_task_file


def read(tmp_path, text):
    path = tmp_path / "tasks.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_task_file(path)


def test_paths_are_expanded_and_start_at_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_DATA", "/data")
    monkeypatch.setenv("HOME", "/home/me")
    text = """
tasks:
  - {name: a, path: ../here}
  - {name: b, path: $SOME_DATA/b}
  - {name: c, path: "${SOME_DATA}/c"}
  - {name: "d: é/ü", path: ~/d}
"""
    entries = read(tmp_path, text)
    assert [entry.name for entry in entries] == ["a", "b", "c", "d: é/ü"]
    assert [entry.path for entry in entries] == [
        tmp_path / "../here",
        Path("/data/b"),
        Path("/data/c"),
        Path("/home/me/d"),
    ]
    assert [entry.where for entry in entries] == [f"{tmp_path}/tasks.yaml:{line}" for line in (3, 4, 5, 6)]


def test_a_data_set_is_a_name_or_a_path(tmp_path):
    (tmp_path / "local").mkdir()
    text = "tasks: [{name: a, dataset: conll2003, config: en, columns: {tags: slots}}, {name: b, dataset: local}]"
    first, second = read(tmp_path, text)
    assert (first.dataset, first.config, first.columns, first.path) == ("conll2003", "en", {"tags": "slots"}, None)
    assert (second.dataset, second.config, second.columns) == (str(tmp_path / "local"), None, None)


def test_columns_splits_tags_and_names(tmp_path):
    text = """
tasks:
  - name: a
    path: a
    columns: {tokens: 2, tags: -1, sentence: id}
    splits: {train: big.conll, validation: 12.5%, test: 0.25, seed: 7}
    tags: repair
    names: [O, B-x, I-x]
  - {name: b, dataset: local, splits: {validation: "train[90%:]"}}
"""
    first, second = read(tmp_path, text)
    assert first.columns == {"tokens": 2, "tags": -1, "sentence": "id"}
    assert (first.splits, first.shares, first.seed) == ({"train": "big.conll"}, {"validation": 0.125, "test": 0.25}, 7)
    assert (first.tags, first.names) == ("repair", ["O", "B-x", "I-x"])
    assert second.splits == {"validation": "train[90%:]"}
    assert (second.shares, second.seed, second.tags, second.names) == ({}, 0, None, None)
    values = {"name": "a", "path": "a", "columns": {"tokens": 2}, "splits": {"validation": 0.1}, "names": ["O", "B-ü"]}
    entry = entry_from(values, "here")
    assert (entry.path, entry.where, entry.columns) == (Path("a"), "here", {"tokens": 2})
    assert (entry.shares, entry.names) == ({"validation": 0.1}, ["O", "B-ü"])


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "the task file is empty"),
        ("tasks:", 1, "tasks must be a list with at least one task"),
        ("tasks: []", 1, "at least one task"),
        ("tasks: atis", 1, "at least one task"),
        ("[]", 1, "there must be a mapping with the keys tasks"),
        ("\ntask: []", 2, "unknown key 'task'; did you mean 'tasks'?"),
        ("tasks:\n- {name: a, path: b}\n- {name: c, paths: d}", 3, "unknown key 'paths'; did you mean 'path'?"),
        ("tasks: [{name: a, datset: d}]", 1, "did you mean 'dataset'?"),
        ("tasks: [{name: a, zzz: d}]", 1, "the keys are name, path, dataset, config, columns"),
        ("tasks: [{name: a, dataset: d, columns: {token: x}}]", 1, "unknown key 'token'; did you mean 'tokens'?"),
        ("tasks:\n- name: a\n  path: b\n  path: c", 4, "the key 'path' stands already in line 3"),
        ("tasks:\n- {name: a, path: b}\n- {name: a, path: c}", 3, "task 'a' stands already at"),
        ("tasks: [{path: b}]", 1, "the task has no name"),
        ("tasks: [{name: a}]", 1, "must have either path or dataset, got name"),
        ("tasks: [{name: a, path: b, dataset: c}]", 1, "must have either path or dataset"),
        ("tasks: [{name: a, path: b, config: c}]", 1, "config goes with dataset only"),
        (
            "tasks:\n- {name: a, path: b,\n   tags: iob}",
            3,
            "bilou, repair, got 'iob'; did you mean 'iob1'?",
        ),
        ("tasks: [{name: a, path: b, tags: conll}]", 1, "must be one of bio, iob1, iobes, bilou, repair"),
        ("tasks: [{name: a, path: b, names: O}]", 1, "names must be a list of tags, as [O, B-city, I-city]"),
        ("tasks: [{name: a, path: b, names: [0, 1]}]", 1, "names must be text, got '0'"),
        ("tasks: [{name: a, path: b, columns: {tokens: 1.5}}]", 1, "tokens must be text, got '1.5'"),
        ("tasks: [{name: a, path: b, splits: {dev: c}}]", 1, "unknown key 'dev'; the keys are train, validation, test"),
        ("tasks: [{name: a, path: b, splits: {train: 10%}}]", 1, "a share must be of validation or test"),
        ("tasks: [{name: a, path: b, splits: {test: 100%}}]", 1, "above 0% and below 100%, got 100%"),
        ("tasks: [{name: a, path: b, splits: {test: 0}}]", 1, "above 0% and below 100%, got 0"),
        ("tasks: [{name: a, path: b, splits: {test: .5, validation: 50%}}]", 1, "must leave something for train"),
        ("tasks: [{name: a, path: b, splits: {test: .5, seed: -1}}]", 1, "seed must be a whole number, at least 0"),
        ("tasks: [{name: a, path: b, splits: {test: c, seed: 1}}]", 1, "seed goes with a share"),
        ("tasks: [{name: 3, path: b}]", 1, "name must be text, got '3'; put it in quotes"),
        ("tasks: [{name: yes, path: b}]", 1, "name must be text"),
        ("tasks: [{name: a, path: [b]}]", 1, "path must be text, got sequence"),
        ("tasks: [{name: '', path: b}]", 1, "name must not be empty"),
        ("tasks: [a]", 1, "there must be a mapping with the keys name"),
        ("tasks:\n- name: a\n  path: $NOT_SET_HERE/a", 3, "the environment variable 'NOT_SET_HERE' is not set"),
        ("tasks: [{name: a, path: '${NOT_SET_HERE}'}]", 1, "'NOT_SET_HERE' is not set"),
        ("tasks: [{name: a, dataset: '${NOT_SET_HERE}'}]", 1, "'NOT_SET_HERE' is not set"),
        ("tasks: [\n{", 2, "invalid YAML"),
        ("tasks:\n- {name: !!python/object/apply:os.getcwd [], path: b}", 2, "name must be text"),
        (b"tasks:\n- {name: \xff, path: b}", 2, "not UTF-8"),
        ('tasks: [{name: "a\x01", path: b}]', 1, "invalid YAML"),
    ],
)
def test_every_fault_is_named_with_its_line(tmp_path, monkeypatch, text, line, message):
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    with pytest.raises(DataError) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path}/tasks.yaml:{line}: ")
    assert message in str(error.value)


def test_a_missing_task_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.yaml: the task file cannot be read \(No such file"):
        read_task_file(tmp_path / "none.yaml")


def test_entries_that_stand_in_a_list_are_named_by_their_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = {"name": "a", "path": "here", "splits": {"validation": 0.1, "seed": 2}}
    (entry,) = entries_from([first])
    assert (entry.name, entry.path, entry.where) == ("a", Path("here"), "tasks[0]")
    assert (entry.shares, entry.seed) == ({"validation": 0.1}, 2)
    for second, message in (
        (first, "task 'a' stands already at tasks[0]; rename one"),
        ({"name": "b", "path": 3}, "path must be text, got '3'; put it in quotes"),
        ({"name": "b", "path": "$NOT_SET_HERE/b"}, "the environment variable 'NOT_SET_HERE' is not set"),
        ({"name": "b", "path": Path("b")}, "must hold text, numbers, lists and mappings alone, got PosixPath"),
        ("b", "there must be a mapping with the keys name"),
    ):
        with pytest.raises(DataError) as error:
            entries_from([first, second])
        assert str(error.value).startswith("tasks[1]: ")
        assert message in str(error.value)
