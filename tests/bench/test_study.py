"""The study's plan and the grid of learning rates: what is planned, and that the committed runs are those."""

import json
from pathlib import Path

import pytest
import yaml

from bench.study import report
from bench.study.plan import Plan
from bench.study.rates import Grid, name_of, scores
from bench.study.runs import portable
from hyperloader.training.presets import training_options

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
STUDY, RATES = RECIPES / "seven-tasks-study.yaml", RECIPES / "learning-rates.yaml"


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.chdir(RECIPES.parent)
    return Plan.from_yaml(STUDY)


def test_the_committed_runs_are_those_of_the_plan(plan):
    planned = {**dict(plan.searches()), **dict(plan.trainings(report.chosen_rates(plan)))}
    found = {path.stem: path for path in plan.results.glob("*-*.json") if path.stem != "step-times"}
    assert found and set(found) <= set(planned)
    for name, path in found.items():
        run, kept = planned[name], json.loads(path.read_text(encoding="utf-8"))
        config = kept["config"]
        assert config["training"]["learning_rate"] == run.rate, name
        assert (kept["method"], kept["steps"]) == (run.config.method, run.config.training["steps"]), name
        for key in ("fraction", "seed", "data_seed"):
            assert config[key] == getattr(run.config, key), name
        made, planned_model = (  # the first runs are from before base weights and do not name them
            {key: value for key, value in model.items() if key != "base_weights"}
            for model in (config["model"], run.config.model)
        )
        assert made == planned_model, name
        assert (kept["test"] is None) == (run.split == "validation"), name


def test_no_row_chooses_its_rate_on_test_data(plan):
    assert all(run.split == "validation" for _, run in plan.searches())
    assert {stage.split for stage in plan.stages} == {"test", "validation"}
    budgets = {len(rates) for rates in plan.search.learning_rates.values()}
    assert len(budgets) == 1, "every row has the same number of runs to choose from"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": {"full": {"colour": 1}}}, "unknown row key"),
        ({"training": None}, "training must be a section of options, got None"),
        ({"training": {"colour": 1}}, "unknown training option 'colour'"),
        ({"rows": {"full": {}}}, "search row must be one of full, got"),
        ({"stages": [{"name": "low", "title": "", "fraction": 1, "steps": 1, "seeds": [0], "rows": ["none"]}]}, "row"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(tmp_path, change, said):
    values = yaml.safe_load(STUDY.read_text(encoding="utf-8")) | change
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({**values, "recipe": str(RECIPES / values["recipe"])}))
    with pytest.raises(ValueError, match=rf"^{path}: {said}"):
        Plan.from_yaml(path)


def test_the_committed_rates_are_those_of_the_grid(monkeypatch):
    monkeypatch.chdir(RECIPES.parent)
    grid = Grid.from_yaml(RATES)
    names = [name_of(cell, rate) for cell in grid.cells for rate in cell.rates or grid.rates]
    assert len(set(names)) == len(names)
    for cell in grid.cells:
        for rate in scores(grid, cell):
            kept = json.loads((grid.results / f"{name_of(cell, rate)}.json").read_text(encoding="utf-8"))
            assert kept["config"]["training"]["learning_rate"] == rate
            said = kept["config"]["training"].get("head_base_width", 0)  # runs of before do not name it
            options = training_options("default", cell.method or "hyperloader", cell.training)
            assert said == options.head_base_width
            assert kept["method"] == (cell.method or "hyperloader")


def test_no_folder_of_a_machine_is_kept():
    config = {"backbone": "/somewhere/minilm", "tasks": [{"name": "a", "path": "/x/a"}], "output": "/runs/low-1"}
    assert portable(config) == {"backbone": "minilm", "tasks": ["a"], "output": "low-1"}
