"""`hyperloader push`: files, card, nothing of the data."""

from huggingface_hub import ModelCard


def test_a_run(call, fails, run_folder, monkeypatch):
    pushed = []

    def push(folder, repo_id, files, card, private, token):
        pushed.append(
            (folder, repo_id, {path.name for pattern in files for path in folder.glob(pattern)}, card, private)
        )
        return "https://hub/owner/name"

    monkeypatch.setattr("hyperloader.checkpoints.hub.push", push)
    result = call("push", run_folder, "owner/name", "--private", "--license", "mit")
    assert result.stdout == "https://hub/owner/name\n", result.output
    ((folder, repo_id, names, card, private),) = pushed
    assert (folder, repo_id, private) == (run_folder, "owner/name", True)
    assert names == {
        "config.yaml",
        "labels.json",
        "words.json",
        "metrics.json",
        "hyperloader.json",
        "model.safetensors",
    }
    data = ModelCard(card).data
    assert (data.license, data.pipeline_tag, len(data.eval_results)) == ("mit", "token-classification", 2)
    assert str(run_folder) not in card and "bert" not in card.split("```")[0].lower()
    assert "must be the output of a run" in fails("push", run_folder / "best", "owner/name")
