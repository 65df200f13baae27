"""`hyperloader inspect`."""

import json
import shutil
import struct

import pytest
import torch
import yaml

from hyperloader.training.saved_run import load_run


@pytest.fixture(scope="module")
def uneven(run_folder, tmp_path_factory):
    """The small run with weights that depend on the task by much, and the scores that this gives."""
    folder = tmp_path_factory.mktemp("uneven") / "run"
    shutil.copytree(run_folder, folder)
    model = load_run(folder).model
    torch.manual_seed(0)
    with torch.no_grad():
        for generator in model.generators.values():
            for head in generator.heads.values():
                head.weight.normal_(0, 2)
        for head in model.heads.heads:
            head.weight.normal_(0, 1)
            head.bias.zero_()  # the shares of the labels, of which nearly all are O, would hide it
    model.save_pretrained(folder / "best")
    return folder


def numbers(line: str) -> list[str]:
    return [word for word in line.split() if word.replace(".", "").replace("-", "").isdigit()]


def test_it_shows_norms_similarities_and_the_control(call, uneven):
    result = call("inspect", uneven, "--limit", 8)
    assert result.exit_code == 0, result.output
    found = json.loads((uneven / "inspect" / "inspect.json").read_text())
    control = found["control"]
    right, wrong = (100 * control[key]["mean_f1"] for key in ("right", "shuffled"))
    assert control["others"] == {"music": "calendar", "calendar": "music"}
    assert (control["split"], control["limit"]) == ("validation", 8)
    assert control["right"]["tasks"]["music"]["sentences"] == 8
    assert right != wrong, "shuffling does something"
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line}
    assert numbers(rows["mean"]) == [f"{right:.1f}", f"{wrong:.1f}"]
    assert f"falls by {right - wrong:.1f} points" in result.stdout
    assert "calendar" in rows["music"]
    assert numbers(rows["down_bias"]) == [
        f"{found['task_similarity']['down_bias'][0][1]:.3f}",
        f"{found['layer_similarity']['encoder down_bias'][0][1]:.3f}",
    ]
    for name in ("tasks.png", "layers.png"):
        data = (uneven / "inspect" / name).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert min(struct.unpack(">II", data[16:24])) > 500
        assert str(uneven / "inspect" / name) in result.stdout


def test_the_numbers_are_those_of_the_weights(call, uneven, tmp_path):
    assert call("inspect", uneven, "--output", tmp_path / "seen", "--limit", 1).exit_code == 0
    found = json.loads((tmp_path / "seen" / "inspect.json").read_text())
    model = load_run(uneven).model
    model.eval()
    tasks = torch.arange(2)
    with torch.no_grad():
        weights = model.generators["encoder"](model.task_embedding(tasks), grouped=True)
    up = {key: tensors[2].flatten(1).double() for key, tensors in weights.items() if key[1] == "feed_forward"}
    lengths = torch.stack([tensor.norm(dim=-1) for tensor in up.values()])
    (row,) = [one for one in found["norms"] if (one["site"], one["weight"]) == ("feed_forward", "up_weight")]
    assert row["mean"] == pytest.approx(lengths.mean().item(), rel=1e-5)
    assert row["most"] == pytest.approx(lengths.max().item(), rel=1e-5)
    every = [tensors[2].flatten(1).double() for key, tensors in weights.items() if "." not in key[1]]
    cosines = [torch.nn.functional.cosine_similarity(*tensor, dim=0).item() for tensor in every]
    assert found["task_similarity"]["up_weight"][0][1] == pytest.approx(sum(cosines) / len(cosines), rel=1e-5)


def test_scores_of_the_control_are_those_of_evaluate(call, uneven):
    assert call("inspect", uneven, "--split", "test").exit_code == 0
    found = json.loads((uneven / "inspect" / "inspect.json").read_text())
    scores = found["control"]["right"]["tasks"]
    result = call("evaluate", uneven)
    for task, one in scores.items():
        (line,) = [line for line in result.stdout.splitlines() if line.startswith(task)]
        assert numbers(line)[0] == f"{100 * one['f1']:.1f}"


def test_a_model_that_ignores_its_tasks_is_reported(call, uneven, tmp_path):
    shutil.copytree(uneven, tmp_path / "run")
    model = load_run(tmp_path / "run").model
    with torch.no_grad():
        model.task_embedding.weight.zero_()
    model.save_pretrained(tmp_path / "run" / "best")
    result = call("inspect", tmp_path / "run", "--limit", 4)
    assert result.exit_code == 0, result.output
    assert "falls by 0.0 points" in result.stdout
    assert "hardly uses" in result.stdout


@pytest.mark.filterwarnings("error:.*:UserWarning")
def test_a_run_of_one_task_has_nothing_to_compare(call, config_file, tmp_path):
    name = "🎵 " + "of a very long name " * 15
    (tmp_path / "tasks.yaml").write_text(
        yaml.safe_dump({"tasks": [{"name": name, "path": str(config_file.parent / "data" / "music")}]})
    )
    words = ["--output", tmp_path / "run", "--set", "training.steps=1", "--set", f"tasks={tmp_path / 'tasks.yaml'}"]
    result = call("train", config_file, *words)
    assert result.exit_code == 0, result.output
    result = call("inspect", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "for 1 task\n" in result.stdout
    assert "nan" not in result.stdout.lower()
    (row,) = [line.split() for line in result.stdout.splitlines() if line.startswith("down_bias  ")]
    assert row[1] == "-"
    found = json.loads((tmp_path / "run" / "inspect" / "inspect.json").read_text())
    assert found["control"] is None
    assert found["task_similarity"]["down_weight"] == [[pytest.approx(1.0)]]


def test_it_says_what_is_wrong(fails, run_folder, tmp_path):
    line = fails("inspect", tmp_path)
    assert str(tmp_path) in line
    assert "must be the output of a run" in line
    assert "must be the output of a run" in fails("inspect", tmp_path / "none")
    line = fails("inspect", run_folder, "--split", "tset")
    assert "'tset'" in line
    assert "'test'" in line
    file = tmp_path / "file"
    file.write_text("kept")
    assert f"--output must be a folder, got the file {file}" in fails("inspect", run_folder, "--output", file)
    assert file.read_text() == "kept"
    assert "--limit" in fails("inspect", run_folder, "--limit", 0, status=2)
    assert not (run_folder / "inspect").exists()


def test_missing_data_leave_no_files(fails, uneven, tmp_path):
    shutil.copytree(uneven, tmp_path / "run", ignore=shutil.ignore_patterns("inspect"))
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({**config, "tasks": str(tmp_path / "gone.yaml")}))
    assert "gone.yaml" in fails("inspect", tmp_path / "run")
    assert not (tmp_path / "run" / "inspect").exists()


def test_a_method_without_generated_weights(call, fails, config_file, tmp_path):
    words = ["--output", tmp_path / "run", "--method", "full", "--set", "training.steps=1", "--set", "model={}"]
    assert call("train", config_file, *words).exit_code == 0
    line = fails("inspect", tmp_path / "run")
    assert "method must be hyperloader, hyperformer++ or adapter" in line
    assert "got full" in line
    assert not (tmp_path / "run" / "inspect").exists()
