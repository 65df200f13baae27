"""The model card that a training leaves in its folder."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hyperloader.training.run import train
from hyperloader.training.trainer import MultiTaskTrainer

TRAINS = {
    "hyperloader": "weights that a hypernetwork generates, as in [HyperLoader]",
    "lora": ": one LoRA for all tasks.",
}


@pytest.mark.parametrize("method", TRAINS)
def test_a_run_tells_data_scores_and_parameters_and_no_path(settings, method):
    config = settings(method=method, fraction=0.5)
    metrics = train(config, progress=False)
    assert metrics["sentences"] == {
        "colours": {"train": 30, "validation": 6, "test": 20},
        "places": {"train": 20, "validation": 6, "test": 20},
    }
    card = ModelCard.load(Path(config.output) / "README.md")
    assert f"{metrics['trainable_parameters']:,} parameters trained, of {metrics['parameters']:,} in all" in card.text
    assert "`BertModel`" in card.text and TRAINS[method] in card.text
    assert ("hypernetwork" in card.data.tags) == (method == "hyperloader") and "lora" in card.data.tags
    assert "| train sentences | validation sentences | test sentences | validation score | test score |" in card.text
    scores = [f"f1 {metrics[split]['tasks']['colours']['f1']:.3f}" for split in ("validation", "test")]
    assert f"| colours | tagging | O, B-colour, I-colour | 30 | 6 | 20 | {' | '.join(scores)} |" in card.text
    found = {one.dataset_name: one.metric_value for one in card.data.eval_results}
    assert found == {task: one["f1"] for task, one in metrics["test"]["tasks"].items()}
    assert f"torch {metrics['versions']['torch']}" in card.text
    assert config.output not in card.content and config.backbone not in card.content
    assert "/" not in card.text.replace("https://arxiv.org/abs/2407.01411", "").replace("path/to/this/folder", "")


def test_an_untested_run(settings):
    config = settings(training={"steps": 1})
    train(config, progress=False, test=False)
    card = ModelCard.load(Path(config.output) / "README.md")
    assert "| train sentences | validation sentences | validation score |\n" in card.text
    assert {one.dataset_split for one in card.data.eval_results} == {"validation"}


def test_cards_of_the_users_stay(settings, monkeypatch):
    config, save = settings(training={"steps": 2, "eval_steps": 1}), MultiTaskTrainer._save_best
    output = Path(config.output)
    output.mkdir()
    (output / "README.md").write_text("my run")

    def save_twice(self):
        save(self)
        assert "path/to/this/folder" in (output / "best" / "README.md").read_text()
        (output / "best" / "README.md").write_text("my model")
        save(self)
        assert (output / "best" / "README.md").read_text() == "my model"
        (output / "best" / "README.md").unlink()

    monkeypatch.setattr(MultiTaskTrainer, "_save_best", save_twice)
    train(config, progress=False)
    assert (output / "README.md").read_text() == "my run"
