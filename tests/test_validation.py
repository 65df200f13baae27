"""Messages about values stay short, whatever the value is."""

import re

import pytest

from hyperloader.json_file import read_json
from hyperloader.validation import check_choice, check_names, check_positive, check_whole, listed, nearest, shown


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


def test_long_lists_are_cut():
    names = [f"task{number}" for number in range(10_000)]
    assert listed(names[:3]) == "task0, task1, task2"
    assert listed(names).endswith("task19 and 9,980 more")
    with pytest.raises(ValueError, match=r"and 9,980 more, got 'task_77'; did you mean 'task\d+'\?$"):
        check_choice("task", "task_77", names)
    assert check_names("tasks", names) == tuple(names)


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
