"""python -m bench.newtask: a new task from few examples, in miniature."""

import json
from pathlib import Path

import pytest
import yaml
from helpers import small_run

from bench import document
from bench.newtask import __main__ as command
from bench.newtask import report
from bench.newtask.plan import Plan

ROOT = Path(__file__).resolve().parents[2]
INSIDE = " <!-- inspect: begin --><!-- inspect: end -->"


def values(folder) -> dict:
    return {
        "recipe": "recipe.yaml",
        "held_out": "calendar",
        "results": str(folder / "results"),
        "runs": str(folder / "runs"),
        "base": {"fraction": 1.0, "steps": 2, "learning_rate": 5e-3},
        "steps": 2,
        "batch_size": 4,
        "examples": [3, 6],
        "seeds": [0, 1],
        "search": {"examples": 5, "seed": 9, "sentences": 4},
        "learning_rates": {"embedding": [1e-2, 2e-2], "head": [1e-2], "adapter": [1e-2]},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a plan, its recipe and its data."""
    folder = tmp_path_factory.mktemp("newtask")
    recipe = small_run.write(folder)
    recipe["tasks"] = [{"name": task, "path": f"data/{task}"} for task in small_run.TASKS]
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "output": str(folder / "run")}))
    (folder / "plan.yaml").write_text(yaml.safe_dump(values(folder)))
    (folder / "results.md").write_text("before <!-- newtask: begin -->\nold\n<!-- newtask: end --> after" + INSIDE)
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """JSON files by name, after a whole study."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document, "RESULTS", folder / "results.md")
        command.main([str(folder / "plan.yaml")])
    return {path.stem: json.loads(path.read_text()) for path in (folder / "results").glob("*.json")}


@pytest.mark.slow
def test_every_run_leaves_its_numbers(results):
    searched = {"search-embedding-0.01", "search-embedding-0.02", "search-head-0.01", "search-adapter-0.01"}
    runs = {f"{method}-{n}-{seed}" for method in ("embedding", "head", "adapter") for n in (3, 6) for seed in (0, 1)}
    assert set(results) == {"base"} | searched | runs
    assert list(results["base"]["tasks"]) == ["music"]
    assert results["embedding-3-0"]["scores"]["sentences"] == 10
    assert results["search-head-0.01"]["scores"]["sentences"] == 4


@pytest.mark.slow
def test_what_is_trained(results):
    head = results["head-3-0"]["trained"]
    assert results["embedding-3-0"]["trained"] == head + 64
    assert results["adapter-3-0"]["trained"] > head + 64


@pytest.mark.slow
def test_other_tasks_are_unchanged(results):
    assert all(
        results[f"{method}-{n}-0"]["others_unchanged"] is True for method in ("embedding", "head") for n in (3, 6)
    )
    assert results["adapter-3-0"]["others_unchanged"] is None


@pytest.mark.slow
def test_table_and_chart(folder, results):
    text = (folder / "results.md").read_text()
    assert text.startswith("before <!-- newtask: begin -->\n| examples of calendar | 64 numbers and a head |")
    assert "<!-- newtask: end --> after <!-- inspect: begin -->\n![tasks.png]" in text
    assert "same bits afterwards in 8 of 8 runs" in text
    rows = [line for line in text.splitlines() if line.startswith("| 3 |")]
    scores = [100 * results[f"adapter-3-{seed}"]["scores"]["f1"] for seed in (0, 1)]
    assert rows[0].split("|")[4].strip().startswith(f"**{sum(scores) / 2:.1f}** ({min(scores):.1f} to")
    assert (folder / "results" / "newtask.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_seen_inside(tmp_path, folder):
    (folder / "other.yaml").write_text(yaml.safe_dump({**values(folder), "results": str(tmp_path)}))
    scores = {task: {"right": 0.8, "shuffled": shuffled} for task, shuffled in (("a_b", 0.5), ("c", 0.7))}
    control = {
        kind: {"tasks": {task: {"f1": found[kind]} for task, found in scores.items()}, "mean_f1": mean}
        for kind, mean in (("right", 0.8), ("shuffled", 0.6))
    }
    control |= {"others": {"a_b": "c", "c": "a_b"}, "split": "validation", "limit": 9}
    (tmp_path / "inspect").mkdir()
    (tmp_path / "inspect" / "inspect.json").write_text(json.dumps({"control": control}))
    text = report.render_inside(Plan.from_yaml(folder / "other.yaml"))
    assert text.startswith("| weights | a b | c | mean |\n")
    assert "| its own | 80.0 | 80.0 | **80.0** |\n| the next task's | 50.0 | 70.0 | **60.0** |" in text
    assert "validation, at most 9 sentences" in text
    assert "own head: -20.0 points." in text


@pytest.mark.slow
def test_what_is_there_is_not_trained_again(folder, results, monkeypatch):
    monkeypatch.setattr(document, "RESULTS", folder / "results.md")
    monkeypatch.setattr(command, "learn", lambda plan, tasks, run: pytest.fail(f"{run.name} was trained again"))
    before = (folder / "results.md").read_text()
    command.main([str(folder / "plan.yaml")])
    command.main([str(folder / "plan.yaml"), "--report"])
    assert (folder / "results.md").read_text() == before


@pytest.mark.slow
def test_the_best_rate_is_chosen_and_the_lowest_of_equals(folder, results, tmp_path):
    (folder / "other.yaml").write_text(yaml.safe_dump({**values(folder), "results": str(tmp_path)}))
    plan = Plan.from_yaml(folder / "other.yaml")
    for rate, f1 in ((0.01, 0.25), (0.02, 0.5)):
        (tmp_path / f"search-embedding-{rate:g}.json").write_text(json.dumps({"scores": {"f1": f1}}))
    assert report.chosen_rates(plan) == {"embedding": 0.02}
    (tmp_path / "search-embedding-0.01.json").write_text(json.dumps({"scores": {"f1": 0.5}}))
    assert report.chosen_rates(plan) == {"embedding": 0.01}
    with pytest.raises(ValueError, match="holds no results yet"):
        report.write(plan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"held_out": "atis"}, "held_out must be one of several tasks music, calendar, got atis"),
        ({"stepz": 3}, "unknown plan key 'stepz'; did you mean 'steps'"),
        ({"base": {"steps": 3, "learning_rate": 1e-3}}, "base must have the key fraction"),
        ({"learning_rates": {"full": [1e-3]}}, "learning_rates must be of embedding, head, adapter"),
    ],
)
def test_a_bad_plan_names_its_file(folder, change, message):
    (folder / "bad.yaml").write_text(yaml.safe_dump(values(folder) | change))
    with pytest.raises(ValueError, match=f"bad.yaml: {message}"):
        Plan.from_yaml(folder / "bad.yaml")


def test_no_plan():
    with pytest.raises(FileNotFoundError, match=r"none.yaml: no such file; give a YAML file such as recipes/new-task"):
        Plan.from_yaml("none.yaml")


def test_the_committed_plan_is_whole():
    plan = Plan.from_yaml(ROOT / "recipes/new-task.yaml")
    assert len(plan.base_config.tasks) == 6
    text = document.RESULTS.read_text(encoding="utf-8")
    assert all(f"<!-- {name}: begin -->" in text for name in ("newtask", "inspect"))
