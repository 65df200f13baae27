"""python -m bench.tasks: everything is measured, and stands in its document."""

import json

import pytest

from bench import tasks


def test_a_small_run(tmp_path, capsys):
    page, file = tmp_path / "page.md", tmp_path / "new" / "tasks.json"
    page.write_text("<!-- tasks: begin --><!-- tasks: end -->")
    tasks.main(["--tasks", "64", "70", "--rounds", "1", "--file", str(file), "--document", str(page)])
    seconds = json.loads(file.read_text())["seconds"]
    assert {count: list(found) for count, found in seconds.items()} == {key: list(tasks.NAMES) for key in ("64", "70")}
    assert all(one > 0 for found in seconds.values() for one in found.values())
    assert capsys.readouterr().out.strip() in page.read_text()
    with pytest.raises(SystemExit):
        tasks.main(["--tasks", "3"])
    assert "--tasks must be at least 64, got 3" in capsys.readouterr().err
