"""What commands write into the documents is what the committed numbers say."""

from pathlib import Path

import pytest

from bench import document, report, results, tasks
from bench.bounds import report as bounds
from bench.cases import CASES
from bench.described import report as described
from bench.described.plan import Plan as DescribedPlan
from bench.newtask import report as newtask
from bench.newtask.plan import Plan as NewTaskPlan
from bench.study import report as study
from bench.study.plan import Plan

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def written(monkeypatch):
    """What would be put into which document, by mark; nothing is written or drawn."""
    found = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(document, "put", lambda page, name, text: found.update({(page, name): text}))
    monkeypatch.setattr(newtask, "draw", lambda *arguments: None)
    for chart in ("scores", "curves"):
        monkeypatch.setattr(study.charts, chart, lambda *arguments: None)
    monkeypatch.setattr(report.headline, "draw", lambda run, device, folder: folder / report.headline.FIGURE)
    return found


def stand(written):
    """Whether everything stands between its marks."""
    for (page, name), text in written.items():
        assert f"<!-- {name}: begin -->\n{text}\n<!-- {name}: end -->" in page.read_text(encoding="utf-8"), name
    return set(written)


def test_study(written):
    study.write(Plan.from_yaml("recipes/seven-tasks-study.yaml"))  # with the bootstrap, some 5 seconds
    assert stand(written) == {(document.RESULTS, "study"), (document.README, "study")}
    assert "| full | 22.76 M |" in written[document.README, "study"]


def test_new_task(written):
    newtask.write(NewTaskPlan.from_yaml("recipes/new-task.yaml"))
    assert stand(written) == {(document.RESULTS, "newtask"), (document.RESULTS, "inspect")}


def test_described(written):
    described.write(DescribedPlan.from_yaml("recipes/held-out-tasks.yaml"))
    assert stand(written) == {(document.RESULTS, "described")}


def test_speed(written):
    report.write(results.ROOT, CASES)
    report.write_headline(report.widest(results.folders(results.ROOT, CASES)), CASES)
    assert stand(written) == {(document.SPEED, "bench"), (document.README, "speed")}
    assert written[document.README, "speed"].count("×**") == 3


def test_tasks(written):
    tasks.main(["--report"])
    assert stand(written) == {(tasks.DOCUMENT, "tasks")}


def test_bounds(written):
    bounds.put()
    assert stand(written) == {(document.CUDA, "bounds")}


def test_put_needs_its_marks(tmp_path):
    page = tmp_path / "page.md"
    with pytest.raises(ValueError, match=r"page.md: no such file"):
        document.put(page, "a", "text")
    page.write_text("<!-- a: end --><!-- a: begin -->")
    with pytest.raises(ValueError, match=r"must hold the marks <!-- a: begin --> and <!-- a: end -->, in this order"):
        document.put(page, "a", "text")
    page.write_text("1<!-- a: begin -->old<!-- a: end -->2")
    document.put(page, "a", "new")
    assert page.read_text() == "1<!-- a: begin -->\nnew\n<!-- a: end -->2"
