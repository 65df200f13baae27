"""Tables of plain text."""

from hyperloader.cli.table import scores_table, table


def test_columns_are_aligned():
    lines = table(("name", "n"), [("a", 1234), ("longer", 2.345)], total=("sum", "")).splitlines()
    assert lines == ["name        n", "------  -----", "a       1,234", "longer    2.3", "------  -----", "sum"]


def test_nan_is_a_dash():
    lines = table(("name", "n"), [("a", float("nan")), ("b", 2.345)]).splitlines()
    assert lines[2:] == ["a       -", "b     2.3"]


def test_one_task_has_no_mean():
    one = {"f1": 0.5, "precision": 0.25, "recall": 1.0, "spans": 1200, "sentences": 7}
    assert "mean" not in scores_table({"tasks": {"a": one}, "mean_f1": 0.5})
    two = scores_table({"tasks": {"a": one, "b": {**one, "f1": 1.0}}, "mean_f1": 0.75})
    assert two.splitlines()[2].split() == ["a", "50.0", "25.0", "100.0", "1,200", "7"]
    assert two.splitlines()[-1].split() == ["mean", "75.0"]
