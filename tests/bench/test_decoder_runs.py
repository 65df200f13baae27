"""python -m bench.decoder: one model, one LoRA and a LoRA a task, in miniature."""

import json

import pytest
import yaml
from helpers import text_run

from bench import document
from bench.decoder import __main__ as command
from bench.results import UsageError

TASKS = ("colours", "which")


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    values = text_run.write(tmp_path)
    values["tasks"] = [one for one in values["tasks"] if one["name"] in TASKS]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**values, "output": "run"}))
    (tmp_path / "results.md").write_text("before <!-- decoder: begin -->\nold\n<!-- decoder: end --> after")
    monkeypatch.setattr(document, "RESULTS", tmp_path / "results.md")
    return path


@pytest.mark.slow
def test_each_row_has_as_many_steps_and_the_same_sentences(recipe, monkeypatch):
    folder = recipe.parent
    words = [str(recipe), "--steps", "4", "--batch-size", "4", "--sentences", "5", "--output", str(folder / "json")]
    monkeypatch.setattr(command, "RATES", {"lora": (1e-7, 1e-2)})
    monkeypatch.setattr(command, "FIRST", 4)
    command.main([*words, "--rates"])
    command.main(words)
    found = {path.stem: json.loads(path.read_text()) for path in (folder / "json").glob("*.json")}
    losses = found.pop("rates")["lora"]
    assert losses["0.01"] < losses["1e-07"]
    rates = {name: run["asked"]["training"]["learning_rate"] for name, run in found.items()}
    assert rates["lora"] == rates["lora-which"] == 1e-2 != rates["hyperloader"]
    assert {name: run["steps"] for name, run in found.items()} == {
        "hyperloader": 4, "lora": 4, "lora-colours": 2, "lora-which": 2,
    }  # fmt: skip
    for run in found.values():
        assert all(one["sentences"] == 5 for one in run["test"]["tasks"].values())
    assert found["lora-colours"]["trainable_parameters"] == found["lora"]["trainable_parameters"]
    text = (folder / "results.md").read_text()
    assert text.startswith("before <!-- decoder: begin -->\n| |") and text.endswith("<!-- decoder: end --> after")
    score = 100 * found["lora-which"]["test"]["tasks"]["which"]["accuracy"]
    (line,) = [line for line in text.splitlines() if line.startswith("| one LoRA a task")]
    assert f"| {2 * found['lora']['trainable_parameters']:,} |" in line and f"| {score:.1f} |" in line
    monkeypatch.setattr(command, "train", lambda *_, **__: pytest.fail("it trains again"))
    command.main(words)


def test_tasks_must_stand_in_the_recipe(recipe):
    values = yaml.safe_load(recipe.read_text())
    (recipe.parent / "tasks.yaml").write_text(yaml.safe_dump({"tasks": values["tasks"]}))
    recipe.write_text(yaml.safe_dump({**values, "tasks": "tasks.yaml"}))
    with pytest.raises(UsageError, match="tasks must be a list, got the file"):
        command.main([str(recipe)])
