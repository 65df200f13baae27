"""`hyperloader train` and `hyperloader evaluate`."""

import json
import shutil

import pytest
import yaml

PNG = b"\x89PNG\r\n\x1a\n"


def test_train_leaves_metrics_plots_and_weights_and_says_so(trained, run_folder):
    metrics = json.loads((run_folder / "metrics.json").read_text())
    for name in ("learning-curve.png", "per-task.png"):
        assert (run_folder / name).read_bytes().startswith(PNG)
        assert name in trained.stdout
    rows = {line.split()[0]: line.split() for line in trained.stdout.splitlines() if line}
    for task in ("music", "calendar"):
        assert rows[task][1] == f"{100 * metrics['test']['tasks'][task]['f1']:.1f}"
    assert rows["mean"][1] == f"{100 * metrics['test']['mean_f1']:.1f}"
    assert (run_folder / "best").is_dir()


def test_types_that_training_never_shows_are_a_warning(call, config_file, tmp_path):
    music = tmp_path / "music"
    shutil.copytree(config_file.parent / "data" / "music", music)
    with (music / "test.jsonl").open("a") as file:
        file.write('{"tokens": ["play", "it"], "tags": ["O", "B-pronoun"]}\n')
    (tmp_path / "tasks.yaml").write_text("tasks: [{name: music, path: music}]\n")
    words = ["--output", tmp_path / "run", "--set", f"tasks={tmp_path / 'tasks.yaml'}", "--set", "training.steps=2"]
    result = call("train", config_file, *words)
    assert result.exit_code == 0, result.output
    assert len([line for line in result.stderr.splitlines() if "pronoun" in line]) == 1


def test_what_did_not_fit_is_reported(call, config_file, trained, tmp_path):
    assert "encoded" not in trained.stdout
    words = ["--output", tmp_path / "run", "--set", "training.steps=2", "--set", "training.max_length=6"]
    result = call("train", config_file, *words)
    assert result.exit_code == 0, result.output
    reports = json.loads((tmp_path / "run" / "metrics.json").read_text())["encoding"].values()
    split, sentences = (sum(one[name] for one in reports) for name in ("split_sentences", "sentences"))
    assert 0 < split < sentences == 120
    assert f"encoded  with 6 tokens: {split} of 120 sentences do not fit and were split into windows" in result.stdout


def test_of_several_processes_the_main_one_prints(call, monkeypatch, config_file, trained):
    monkeypatch.setenv("RANK", "1")
    result = call("train", config_file, "--resume")
    assert (result.exit_code, result.output) == (0, "")


def test_a_run_without_test_scores_is_not_shown_as_if_it_had_some(fails, config_file, run_folder, monkeypatch):
    monkeypatch.setattr("hyperloader.training.run.train", lambda config, **_: {"test": None})
    assert f"hyperloader evaluate {run_folder}" in fails("train", config_file, "--resume")


def test_evaluate_repeats_the_scores_of_training(call, trained, run_folder):
    result = call("evaluate", run_folder)
    assert result.exit_code == 0, result.output
    table = [line for line in result.stdout.splitlines() if line.startswith(("music", "calendar", "mean"))]
    assert table == [line for line in trained.stdout.splitlines() if line.startswith(("music", "calendar", "mean"))]


def test_evaluate_one_task_on_another_split(call, run_folder):
    result = call("evaluate", run_folder, "--split", "validation", "--task", "music")
    assert result.exit_code == 0, result.output
    assert "validation" in result.stdout
    assert "calendar" not in result.stdout


def test_options_go_before_the_file(call, config_file, tmp_path):
    words = ["--output", tmp_path / "run", "--method", "full", "--seed", 3, "--set", "training.steps=2"]
    result = call("train", config_file, *words, "--set", "model={}", "--set", "fraction=0.5")
    assert result.exit_code == 0, result.output
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (saved["method"], saved["seed"], saved["fraction"], saved["model"]) == ("full", 3, 0.5, {})
    assert saved["training"]["steps"] == 2
    assert saved["training"]["batch_size"] == 8


def test_a_finished_run_is_not_trained_again(fails, call, config_file, run_folder, trained):
    assert str(run_folder) in fails("train", config_file)
    result = call("train", config_file, "--resume")
    assert result.exit_code == 0
    said = [line for line in trained.stdout.splitlines() if not line.startswith("step ")]
    assert result.stdout.splitlines() == said


def test_without_a_terminal_every_evaluation_is_a_line(trained):
    lines = [line for line in trained.stdout.splitlines() if line.startswith("step ")]
    assert [line.partition(":")[0] for line in lines] == ["step 2 of 4", "step 4 of 4"]


def test_paths_on_the_command_line_start_at_the_working_directory(call, config_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs = []
    monkeypatch.setattr(
        "hyperloader.training.run.train", lambda config, **_: outputs.append(config.output) or {"test": None}
    )
    for words in (["--output", "mine"], ["--set", "output=mine"]):
        result = call("train", config_file, *words)
        assert result.stdout.rstrip().endswith("to mine")
    assert outputs == [str(tmp_path / "mine")] * 2


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--set", "training.stepz=3"], ["'stepz'", "'steps'"]),
        (["--set", "bachbone=x"], ["'bachbone'", "'backbone'"]),
        (["--set", "training.steps=0"], ["steps", "at least 1", "got 0"]),
        (["--set", "model.rank=-1"], ["rank", "-1"]),
        (["--set", "seed"], ["KEY=VALUE", "'seed'"]),
        (["--set", "modell.rank=1"], ["model", "modell.rank"]),
        (["--set", "seed=[1"], ["YAML"]),
        (["--method", "hyperloadr"], ["'hyperloadr'", "'hyperloader'"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["--set", "backbone=./nowhere"], ["backbone", "nowhere"]),
    ],
)
def test_a_bad_option_is_one_line(fails, config_file, tmp_path, words, parts):
    line = fails("train", config_file, "--output", tmp_path / "run", *words)
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["config.yaml"]),
        (b"\xff\xfe", ["config.yaml"]),
        (b"backbone: [", ["config.yaml"]),
        (b"backbone: minilm\ntasks: t.yaml\noutput: run\nmetod: full\n", ["config.yaml", "'metod'", "'method'"]),
        (b"tasks: t.yaml\noutput: run\n", ["config.yaml", "backbone"]),
    ],
)
def test_a_bad_config_is_one_line_with_its_file(fails, tmp_path, content, parts):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    line = fails("train", path)
    for part in parts:
        assert part in line


def test_missing_files(fails, config_file, tmp_path):
    assert "none.yaml" in fails("train", tmp_path / "none.yaml")
    assert "none.yaml" in fails("train", config_file, "--output", tmp_path / "run", "--set", "tasks=none.yaml")
    assert not (tmp_path / "run").exists()


def test_only_the_tasks_asked_for_are_scored(call, run_folder, monkeypatch):
    from hyperloader.training import saved_run

    scored, original = [], saved_run.Scorer

    def kept(formulation, sentences, *arguments, **options):
        scored.append(list(sentences))
        return original(formulation, sentences, *arguments, **options)

    monkeypatch.setattr(saved_run, "Scorer", kept)
    whole = call("evaluate", run_folder).stdout
    one = call("evaluate", run_folder, "--task", "music").stdout
    both = call("evaluate", run_folder, "--task", "calendar", "--task", "music").stdout
    assert scored == [["music", "calendar"], ["music"], ["music", "calendar"]]
    assert "calendar" not in one
    line = next(line for line in whole.splitlines() if line.startswith("music"))
    assert line.split() in [row.split() for row in one.splitlines()]
    assert both == whole


def test_tags_are_read_as_the_run_does_or_as_asked_for(call, run_folder, monkeypatch):
    from hyperloader.training import saved_run

    valid, original = [], saved_run.load_run

    def kept(*arguments):
        run = original(*arguments)
        valid.append(run.formulation.valid_tags)
        return run

    monkeypatch.setattr(saved_run, "load_run", kept)
    for option in ((), ("--valid-tags",), ("--each-word",)):
        assert call("evaluate", run_folder, "--task", "music", *option).exit_code == 0
        assert call("predict", run_folder, "--task", "music", *option, input="play it\n").exit_code == 0
    assert valid == [True, True, True, True, False, False]


def test_evaluate_says_what_is_wrong(fails, run_folder, tmp_path):
    assert str(tmp_path) in fails("evaluate", tmp_path)
    line = fails("evaluate", run_folder, "--split", "tset")
    assert "'tset'" in line
    assert "'test'" in line
    assert "text-to-text" in fails("evaluate", run_folder, "--decoding", "position")
    line = fails("evaluate", run_folder, "--task", "musik")
    assert "'musik'" in line
    assert "'music'" in line
