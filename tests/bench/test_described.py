"""python -m bench.described: tasks that were never seen, in miniature."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from helpers import kinds_run

from bench import document
from bench.described import __main__ as command
from bench.described import report
from bench.described.learn import randomised
from bench.described.plan import Plan

ROOT = Path(__file__).resolve().parents[2]
TASKS = {"music": "find what is to be played", "topics": "what it is about", "intents": "which of both it is"}


def values(folder) -> dict:
    return {
        "recipe": "recipe.yaml",
        "held_out": ["intents"],
        "results": str(folder / "results"),
        "runs": str(folder / "runs"),
        "base": {"fraction": 1.0, "steps": 2, "learning_rate": 5e-3},
        "steps": 2,
        "batch_size": 4,
        "examples": [3],
        "seeds": [0],
        "sentences": 8,
        "search": {"examples": 5, "seed": 9, "sentences": 4},
        "learning_rates": {"embedding": [1e-2, 2e-2], "lora": [1e-2]},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a plan, its recipe and its data."""
    folder = tmp_path_factory.mktemp("described")
    recipe = kinds_run.write(folder)
    recipe["tasks"] = [one | {"description": TASKS[one["name"]]} for one in recipe["tasks"] if one["name"] in TASKS]
    recipe["model"] |= {"task_condition": "description"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "output": str(folder / "run")}))
    (folder / "plan.yaml").write_text(yaml.safe_dump(values(folder)))
    (folder / "results.md").write_text("before <!-- described: begin -->\nold\n<!-- described: end --> after")
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """JSON files by name, after everything."""
    pytest.importorskip("peft")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document, "RESULTS", folder / "results.md")
        command.main([str(folder / "plan.yaml")])
    return {path.stem: json.loads(path.read_text()) for path in (folder / "results").glob("*.json")}


def test_every_run_leaves_its_numbers(results):
    searched = {
        f"search-{rate}-{method}-intents-5-9" for method, rate in (("words", 0.01), ("words", 0.02), ("lora", 0.01))
    }
    runs = {f"{method}-intents-3-0" for method in ("words", "random", "mean", "lora")}
    at_once = {f"{method}-intents-0-0" for method in ("words", "random", "mean", "head")}
    assert set(results) == {"base-0", "inspect", "most-common"} | searched | runs | at_once
    assert set(results["base-0"]["validation"]["tasks"]) == {"music", "topics"}
    assert results["words-intents-3-0"]["headline"] == "accuracy"
    assert 0.5 <= results["most-common"]["intents"] < 1


def test_what_is_trained(results):
    """A row and a head of two labels, whatever they begin at."""
    assert {results[f"{method}-intents-3-0"]["trained"] for method in ("words", "random", "mean")} == {64 + 2 * 32 + 2}
    assert results["lora-intents-3-0"]["trained"] > 1000
    assert results["words-intents-0-0"]["seconds_per_step"] is None


def test_table(folder, results):
    text = (folder / "results.md").read_text()
    assert text.startswith("before <!-- described: begin -->\n| task | examples | its words | random words |")
    scores = [results[f"{method}-intents-0-0"]["score"] for method in ("words", "random", "mean", "head")]
    cells = " | ".join(f"**{100 * score:.1f}**" for score in scores)
    assert f"| intents | none | {cells} |  |" in text
    assert "with the descriptions shuffled, rows and heads as they are, the mean goes from" in text
    assert f"label would score {100 * results['most-common']['intents']:.1f} on intents. `hyper" in text
    assert "| trained numbers | | 130 | 130 | 130 |" in text


def test_what_is_there_is_not_trained_again(folder, results, monkeypatch):
    monkeypatch.setattr(document, "RESULTS", folder / "results.md")
    for name in ("learn", "train", "inspect"):
        monkeypatch.setattr(command, name, lambda *arguments, **options: pytest.fail("it was trained again"))
    before = (folder / "results.md").read_text()
    command.main([str(folder / "plan.yaml")])
    assert (folder / "results.md").read_text() == before


def test_what_was_trained_otherwise_is_not_taken(folder, results):
    plan = Plan.from_yaml(folder / "plan.yaml")
    run = next(run for run in plan.learnings(report.chosen_rates(plan)) if run.examples)
    assert report.read(plan, run) == results[run.name]
    assert report.read(plan, dataclasses.replace(run, rate=run.rate / 2)) is None


def test_random_words_are_as_many_and_depend_on_the_seed():
    known = ["a", "b", "c", "d"]
    description, words = randomised(["one two three"], {"x": "four five"}, known, 0)
    assert len(description[0].split()) == 3 and len(words["x"].split()) == 2
    assert set(description[0].split()) | set(words["x"].split()) <= set(known)
    assert randomised(["one two three"], {"x": "four five"}, known, 0) == (description, words)
    assert randomised(["one two three"], {"x": "four five"}, known, 1) != (description, words)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"held_out": ["atis"]}, "held_out must be one of music, intents, topics, got 'atis'"),
        ({"stepz": 3}, "unknown plan key 'stepz'; did you mean 'steps'"),
        ({"learning_rates": {"lora": [1e-3]}}, r"learning_rates must be of embedding and lora, got \['lora'\]"),
    ],
)
def test_a_bad_plan_names_its_file(folder, change, message):
    (folder / "bad.yaml").write_text(yaml.safe_dump(values(folder) | change))
    with pytest.raises(ValueError, match=f"bad.yaml: {message}"):
        Plan.from_yaml(folder / "bad.yaml")


def test_no_plan():
    with pytest.raises(FileNotFoundError, match=r"none.yaml: no such file; give a YAML file such as recipes/held-out"):
        Plan.from_yaml("none.yaml")


def test_no_results(folder, tmp_path):
    (folder / "other.yaml").write_text(yaml.safe_dump(values(folder) | {"results": str(tmp_path)}))
    with pytest.raises(ValueError, match="holds no results yet"):
        report.write(Plan.from_yaml(folder / "other.yaml"))


def test_the_committed_plan_is_whole():
    plan = Plan.from_yaml(ROOT / "recipes/held-out-tasks.yaml")
    assert len(plan.base_config(0).tasks) == 8
    assert all(one["description"] for one in plan.recipe.tasks)
    assert "<!-- described: begin -->" in document.RESULTS.read_text(encoding="utf-8")
