"""Messages about values stay short, whatever the value is."""

import re

import pytest

from hyperloader import HyperLoaderConfig
from hyperloader.json_file import read_json
from hyperloader.validation import (
    FEW,
    check_choice,
    check_key,
    check_names,
    check_positive,
    check_whole,
    did_you_mean,
    held,
    listed,
    naming,
    nearest,
    shown,
)

MANY = [f"task-{number}" for number in range(10_000)]


def nested(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("value", ["x" * 10**6, nested(10_000), 10**5000, [10**5000], list(range(10**5))], ids=range(5))
def test_every_value_can_be_shown(value):
    assert len(shown(value)) < 100
    for check in (check_whole, check_positive, lambda name, one: check_choice(name, one, ("a", "b"))):
        with pytest.raises((TypeError, ValueError), match=r"^rank must be .*, got .{1,100}$"):
            check("rank", value)


def test_the_nearest_name_and_of_many_the_three_nearest():
    assert did_you_mean("snip", ["atis", "snips", "snap"]) == "did you mean 'snips'?"
    assert did_you_mean("task_77", MANY) == "did you mean 'task-77', 'task-977' or 'task-877'?"
    assert did_you_mean("xyz", ["atis", "snips"]) is None
    assert did_you_mean(7, ["atis"]) is None


def test_few_names_are_listed_and_many_are_counted():
    assert listed(["atis", "snips"]) == "atis, snips"
    assert listed(MANY[:FEW]) == ", ".join(MANY[:FEW])
    assert listed(MANY, "tasks") == "10,000 tasks such as task-0, task-1, task-2"
    assert listed([]) == ""
    assert listed(["x" * 300]) == "x" * 60 + "..."
    assert listed(MANY[:4], "layers", few=3) == "4 layers such as task-0, task-1, task-2"
    assert held({"text": 1, "id": 2}) == "'text', 'id'"
    assert held({}) == "nothing"
    assert held(MANY) == "10,000 keys such as 'task-0', 'task-1', 'task-2'"


def test_messages_of_many_names_stay_short():
    with pytest.raises(
        ValueError, match=r"^task must be one of 10,000 tasks such as task-0, task-1, task-2, got 'task"
    ):
        check_choice("task", "task", MANY, "tasks")
    with pytest.raises(ValueError, match=r"^unknown task 'task_77'; did .* or 'task-877'\? There are 10,000$"):
        check_key("task", "task_77", MANY)
    with pytest.raises(
        ValueError, match=r"^unknown task 'xyz'; known are 10,000 names such as task-0, task-1, task-2$"
    ):
        check_key("task", "xyz", MANY)
    check_key("task", "task-77", MANY)
    assert check_names("tasks", MANY) == tuple(MANY)


class CountedName(str):
    """Counts how often names are compared, other than by hash."""

    comparisons = 0

    def __eq__(self, other):
        CountedName.comparisons += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_the_work_of_a_config_grows_with_its_tasks_and_not_with_their_square():
    names = [CountedName(f"task-{number}") for number in range(2_000)]
    HyperLoaderConfig(tasks=names, labels={name: ["O", "B-a", "I-a"] for name in names})
    assert CountedName.comparisons <= 4 * len(names)


def test_a_config_of_many_tasks_does_not_list_them():
    config = HyperLoaderConfig(tasks=MANY, labels={name: ["O"] for name in MANY})
    with pytest.raises(ValueError, match=r"^task must be one of 10,000 tasks .* did you mean 'task-77'") as raised:
        config.task_id("task_77")
    assert len(str(raised.value)) < 200
    with pytest.raises(ValueError, match=r"got 'task_77'; did you mean 'task-77'") as raised:
        HyperLoaderConfig(tasks=MANY, labels={name: ["O"] for name in [*MANY, "task_77"]})
    assert len(str(raised.value)) < 200
    with pytest.raises(ValueError, match=r"^tasks must be distinct, got 'task-5' 2 times$"):
        HyperLoaderConfig(tasks=[*MANY, "task-5"])


def test_whole_numbers_have_a_range():
    check_whole("seed", 0, 0, 7)
    for value, message in ((-1, "at least 0"), (8, "at most 7")):
        with pytest.raises(ValueError, match=f"seed must be {message}, got {value}"):
            check_whole("seed", value, 0, 7)


def test_nearest():
    assert nearest("rnk", ["rank"]) == "; did you mean 'rank'?"
    assert nearest("x", ["rank"]) == nearest(nested(10_000), ["rank"]) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 10_000, "must be nested at most 32 deep"),
        ('{"a": ' + "[" * 40 + "]" * 40 + "}", "must be nested at most 32 deep, got more in a"),
        ('{"a": {"b": [1, NaN]}}', "a.b must be finite, got nan"),
        ('{"a": 1e999}', "a must be finite, got inf"),
        ('{"a": ' + "1" * 5000 + "}", "Exceeds the limit"),
        ('{"a": 1, "a": 2}', "the key 'a' must stand once, got it 2 times"),
        ("[]", "must hold one JSON object, got []"),
        ("", "Expecting value"),
        ("\ufeff{}", "BOM"),
    ],
    ids=range(9),
)
def test_bad_json(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"a\.json: not a thing: .*{re.escape(message)}"):
        read_json(path, "a thing")


def test_a_json_file_of_any_size_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(ValueError, match="must have at most 64 MiB, got 65"):
        read_json(path)


class BadFileError(ValueError):
    """A kind of its own."""


def test_what_is_wrong_in_a_block_is_named():
    for error in (ValueError("rank must be 1"), TypeError("rank must be 1")):
        with (
            pytest.raises(BadFileError, match=r"^a\.yaml:3: rank must be 1$") as raised,
            naming("a.yaml:3", BadFileError),
        ):
            raise error
        assert raised.value.__cause__ is error
    with pytest.raises(KeyError, match="rank"), naming("a.yaml"):
        raise KeyError("rank")
