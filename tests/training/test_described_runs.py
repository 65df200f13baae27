"""Runs whose tasks are described in words: YAML, training, resuming, loading, bad files."""

import json

import pytest
import torch
import yaml
from helpers import kinds_run

from hyperloader.data.sentence import DataError
from hyperloader.training import inspection, task_words
from hyperloader.training.requirements import check_model
from hyperloader.training.run import train
from hyperloader.training.run_config import RunConfig
from hyperloader.training.saved_run import load_run, predict
from hyperloader.training.trainer import MultiTaskTrainer

WORDS = {
    "music": {"description": ["play a song", "music"], "labels": {"artist": "who plays the song"}},
    "intents": {"description": "which of both is it"},
    "length": {"description": ["how long is it"]},
}


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """What the run's file holds, but for its output: three kinds of tasks."""
    folder = tmp_path_factory.mktemp("described")
    values = kinds_run.write(folder)
    for task in values["tasks"]:
        task["path"] = str(folder / task["path"])
    values["tasks"] = [task | WORDS[task["name"]] for task in values["tasks"] if task["name"] in WORDS]
    values["model"] |= {"task_condition": "description"}
    return values


def config_of(values, output, **changes) -> RunConfig:
    return RunConfig.from_dict({**values, "output": str(output), **changes})


@pytest.fixture(scope="module")
def whole(values, tmp_path_factory):
    """The folder of a run that was trained to its end at once."""
    folder, threads = tmp_path_factory.mktemp("whole") / "run", torch.get_num_threads()
    torch.set_num_threads(1)  # as in every test here: sums in one order
    train(config_of(values, folder), progress=False)
    torch.set_num_threads(threads)
    return folder


def test_a_run_is_loaded_without_its_data(whole):
    run = load_run(whole)
    stored = json.loads((whole / "descriptions.json").read_text())
    assert stored["descriptions"]["music"] == ["play a song", "music"]
    assert stored["label_words"]["music"] == {"artist": "who plays the song"}
    config = run.hyperloader.hyperloader_config
    assert config.descriptions == {"music": ("play a song", "music"), "intents": ("which of both is it",),
                                   "length": ("how long is it",)}  # fmt: skip
    assert config.label_words == {"music": {"artist": "who plays the song"}}
    assert run.hyperloader.task_embedding.texts.isfinite().all() and run.heads.texts.isfinite().all()
    assert run.hyperloader.task_embedding.weight.any(), "the rows were trained, too"
    assert next(predict(run, ["play a song"], "intents")) in ("music", "calendar")


def test_a_new_task_for_a_loaded_run(whole):
    """The run's tokenizer reads its words, with which it is there at once."""
    model = load_run(whole).hyperloader
    model.add_task("more", labels=["a", "b"], kind="classification", description="music", label_words={"a": "song"})
    found = model.task_embedding(torch.tensor([3]))
    assert torch.equal(found, model.task_embedding.words(model.task_embedding.texts[-1:]))


def test_resuming_is_exact(values, whole, tmp_path, monkeypatch):
    """What is dropped and drawn after the interruption is what would have been."""
    run, step = config_of(values, tmp_path / "run"), MultiTaskTrainer.training_step

    def interrupted(self, *arguments, **options):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    monkeypatch.setattr(MultiTaskTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(run, progress=False)
    monkeypatch.setattr(MultiTaskTrainer, "training_step", step)
    train(run, resume=True, progress=False)
    one, other = (load_run(folder).hyperloader.trainable_state() for folder in (whole, tmp_path / "run"))
    assert not [name for name in one if not torch.equal(one[name], other[name])]


def test_shuffled_descriptions(whole):
    model = load_run(whole).hyperloader
    tasks, embedding = torch.arange(3), model.task_embedding
    before, texts = embedding(tasks), embedding.texts.clone()
    others = inspection.other_tasks(model.hyperloader_config.tasks)
    with inspection.shuffled(model, others):
        torch.testing.assert_close(embedding(tasks) - embedding.weight, (before - embedding.weight)[[1, 2, 0]])
    assert torch.equal(embedding(tasks), before) and torch.equal(embedding.texts, texts)


def test_words_of_a_model_without_heads(values):
    """It has no labels of its own: the words of all labels go into the task's text."""
    tasks = [{**values["tasks"][0], "name": "music"}]
    config = config_of(values, "run", tasks=tasks, head="text-to-text")
    words = task_words.words_of_tasks(config, config.load_tasks())
    assert words["label_words"]["music"]["artist"] == "who plays the song"
    assert len(words["label_words"]["music"]) > 1


def test_descriptions_without_use_are_read_over(values):
    """The same task file serves methods that do not read them."""
    config = config_of(values, "run", method="adapter", model={"reduction_factor": 4})
    assert task_words.words_of_tasks(config, config.load_tasks()) == {}
    check_model(config)
    with pytest.raises(ValueError, match="model.task_condition must not be given for the method adapter"):
        config_of(values, "run", method="adapter")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"description": None},
            r"tasks.yaml:2: task 'music' has no description, which task_condition: descr",
        ),
        ({"description": ""}, r"tasks.yaml:2: description must not be empty"),
        ({"description": []}, r"tasks.yaml:2: description must not be empty"),
        ({"description": ["a", ""]}, r"tasks.yaml:2: description must not be empty"),
        ({"description": 3}, r"tasks.yaml:2: description must be text, got '3'"),
        (
            {"labels": {"artits": "x"}},
            r"tasks.yaml:4: labels must hold only labels .*got 'artits'; did you mean 'art",
        ),
        ({"labels": {"artist": ""}}, r"tasks.yaml:4: labels.artist must not be empty"),
        ({"labels": "artist"}, r"tasks.yaml:4: labels must map labels to words, as \{LOC: a place\}"),
    ],
)
def test_bad_task_files(values, tmp_path, change, message):
    entry = {key: value for key, value in (values["tasks"][0] | change).items() if value is not None}
    lines = [f"{key}: {json.dumps(entry[key])}" for key in ("name", "path", "labels", "description") if key in entry]
    last = [line for line in lines if line.startswith("description")]
    text = "tasks:\n- " + ", ".join(["{" + ", ".join([*lines[:2], *last]) + ",\n\n  " + lines[2] + "}"])
    (tmp_path / "tasks.yaml").write_text(text + "\n")
    assert yaml.safe_load(text)
    config = config_of(values, tmp_path / "run", tasks=str(tmp_path / "tasks.yaml"))
    with pytest.raises(DataError, match=message):
        train(config, progress=False)


def test_a_broken_file_of_words_is_named(whole, tmp_path):
    run = RunConfig.from_yaml(whole / "config.yaml")
    (tmp_path / "descriptions.json").write_text('{"descriptions": {"music": "x"}}')
    with pytest.raises(ValueError, match=r"descriptions.json: descriptions must hold every task, got none for 'intent"):
        task_words.read_words(tmp_path, run, ["music", "intents"])


def test_a_text_model_in_words(t5, data, tmp_path):
    """Without heads: the words make its generated weights alone."""
    tasks = [{"name": name, "path": str(data / name), "description": f"find {name}"} for name in ("colours", "places")]
    training = {"steps": 2, "batch_size": 4, "eval_steps": 2, "save_steps": 2, "report_to": "none", "max_length": 32}
    values = {"backbone": str(t5), "head": "text-to-text", "tasks": tasks, "training": training}
    train(config_of(values, tmp_path / "run", model={"task_condition": "description", "rank": 2}), progress=False)
    run = load_run(tmp_path / "run")
    assert run.heads is None
    assert run.hyperloader.hyperloader_config.label_words == {
        "colours": {"colour": "colour"},
        "places": {"place": "place"},
    }
    assert len(next(predict(run, [("show", "red")], "colours"))) == 2
    run.hyperloader.add_task("new", description="find me")
    assert torch.equal(run.hyperloader.task_embedding.weight[2], torch.zeros(64))
