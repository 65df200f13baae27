"""`hyperloader search`."""

import json
import shlex
import sys

import pytest
import yaml

PNG = b"\x89PNG\r\n\x1a\n"
RATES = "training.learning_rate=1e-2,1e9,3e-3"


def test_without_optuna_the_command_that_installs_it(fails, config_file, monkeypatch):
    for name in ("search", "trials"):
        monkeypatch.delitem(sys.modules, f"hyperloader.training.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    line = fails("search", config_file, "--over", RATES)
    assert line == "error: the package optuna is not installed; run: pip install 'hyperloader[search]'"


def test_table_figure_and_the_commands_for_test_scores(call, config_file, tmp_path, monkeypatch):
    pytest.importorskip("optuna", reason="Optuna is not installed")
    output = tmp_path / "search"
    options = ["--set", "training.max_grad_norm=0", "--seed", 3]
    words = ["search", config_file, "--over", RATES, "--over", "model.rank=4", *options, "--output", output]
    result = call(*words)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "trial 1 of 3: rank=4,learning_rate=0.01"
    assert sum(line.startswith("  mean F1 ") for line in lines) == 2
    (top,) = (number for number, line in enumerate(lines) if line.startswith("training.learning_rate  model.rank"))
    assert lines[top].split()[2:] == ["mean", "F1", "%", "best", "step", "seconds", "failed"]
    assert lines[top + 4].split()[:6] == ["1000000000.0", "4", "-", "-", "-", "the"]
    assert {line.split()[0] for line in lines[top + 2 : top + 4]} == {"0.01", "0.003"}
    report = json.loads((output / "search.json").read_text())
    assert [one["score"] is None for one in report["trials"]] == [False, False, True]
    assert report["trials"][2]["reason"].startswith("the loss must be finite")
    assert (output / "search.png").read_bytes().startswith(PNG)
    assert not list(output.rglob("test.counts.npz"))

    said = {line.split()[0]: line for line in lines[top + 5 :] if line}
    evaluated = call(*shlex.split(said["tested"].partition("with: hyperloader ")[2]))
    trained = call(*shlex.split(said["trained"].partition("with: hyperloader ")[2]))
    assert evaluated.exit_code == trained.exit_code == 0, trained.output
    tables = [[one for one in got.stdout.splitlines() if one.startswith("music")] for got in (evaluated, trained)]
    assert tables[0] == tables[1] != []
    of_best = json.loads((tmp_path / "search-best" / "metrics.json").read_text())
    assert of_best["validation"] == report["trials"][0]["validation"]
    assert yaml.safe_load((tmp_path / "search-best" / "config.yaml").read_text())["seed"] == 3

    monkeypatch.setattr("hyperloader.training.search.train", lambda *_, **__: pytest.fail("trained again"))
    again = call(*words)
    assert again.stdout.splitlines() == ["", *lines[top:]]


def test_a_first_trial_that_is_refused_is_in_the_table(call, config_file, tmp_path, monkeypatch):
    pytest.importorskip("optuna", reason="Optuna is not installed")
    from hyperloader.training import search

    train = search.train

    def refusing(config, on_data, **options):
        if config.options.max_length < 20:
            on_data([])
            raise ValueError("data.jsonl:3: the prompt is too long; raise max_length")
        return train(config, on_data=on_data, **options)

    monkeypatch.setattr(search, "train", refusing)
    words = ["search", config_file, "--output", tmp_path / "search", "--over"]
    refused = call(*words, "training.max_length=8,16")
    assert refused.exit_code == 1
    rows = [line.split()[:4] for line in refused.stdout.splitlines() if line.startswith(("8 ", "16 "))]
    assert rows == [["8", "-", "-", "-"], ["16", "-", "-", "-"]]
    last = "search failed; max_length=8: data.jsonl:3: the prompt is too long; raise max_length"
    assert refused.stderr.strip().endswith(last)
    result = call(*words, "training.max_length=8,24")
    assert result.exit_code == 0, result.output
    assert "  failed: data.jsonl:3: the prompt is too long; raise max_length" in result.stdout.splitlines()
    assert [line.split()[0] for line in result.stdout.splitlines() if line.startswith(("8 ", "24 "))] == ["24", "8"]


def test_ctrl_c_says_how_to_go_on(fails, config_file, tmp_path, monkeypatch):
    pytest.importorskip("optuna", reason="Optuna is not installed")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("hyperloader.training.search.train", interrupted)
    words = [
        "search",
        str(config_file),
        "--method",
        "lora",
        "--set",
        "model={}",
        "--over",
        "seed=1, 2",
        "--trials",
        "1",
    ]
    result = fails(*words, "--output", str(tmp_path / "search"), status=130)
    command = shlex.join(["hyperloader", *words, "--output", str(tmp_path / "search")])
    assert result == f"interrupted; go on with: {command}"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--over", "training.learning_rat=1e-3"], ["'learning_rat'", "'learning_rate'"]),
        (["--over", "seed="], ["over seed must list at least one value, got none"]),
        (["--over", "seed"], ["--over must have the form KEY=VALUE,VALUE, got 'seed'"]),
        (["--over", "seed=[1"], ["--over must list YAML values", "'seed=[1'"]),
        (["--over", "seed=1", "--over", "seed=2"], ["--over must name a key once, got 'seed' twice"]),
        (["--over", "seed=1,1"], ["over seed must list a value once, got 1 2 times"]),
        (["--over", "seed=1,2", "--seed", 3], ["--over must name keys that no other option gives", "'seed'"]),
        (["--over", "model.rank=4,8", "--set", "model.rank=2"], ["no other option gives a value, got 'model.rank'"]),
        (["--over", "backbone=./nowhere"], ["backbone", "nowhere"]),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_trained(fails, config_file, tmp_path, words, parts):
    pytest.importorskip("optuna", reason="Optuna is not installed")
    line = fails("search", config_file, "--output", tmp_path / "search", *words)
    for part in parts:
        assert part in line
    assert not (tmp_path / "search").exists()


def test_a_bad_command_line(fails, config_file):
    assert "--over" in fails("search", config_file, status=2)
    assert "--trials" in fails("search", config_file, "--over", "seed=1", "--trials", 0, status=2)
