"""Scores of a part of the sentences."""

from hyperloader.training.run import train
from hyperloader.training.saved_run import evaluate


def test_scores_of_a_part_of_the_sentences(settings, finished):
    config = settings(training={"eval_sentences": 5, "steps": 1})
    metrics = train(config, progress=False)
    for split in ("validation", "test"):
        assert {one["sentences"] for one in metrics[split]["tasks"].values()} == {5}
        assert evaluate(config.output, split) == metrics[split]
    complete = evaluate(config.output, "test", limit=0)
    assert {task: one["sentences"] for task, one in complete["tasks"].items()} == {
        task: one["sentences"] for task, one in evaluate(finished.output)["tasks"].items()
    }
    assert complete != metrics["test"] == evaluate(config.output, limit=5)
    assert evaluate(config.output, limit=10**6) == complete
