"""What is cheap to check is checked first: a bad option is refused before any data are read."""

import pytest
import yaml


@pytest.fixture
def no_data(monkeypatch):
    """Fail when data are read."""

    def refuse(*arguments, **options):
        raise AssertionError(f"data were read: {arguments}")

    monkeypatch.setattr("hyperloader.training.run_config.load_task", refuse)  # first: importing it copies the name
    monkeypatch.setattr("hyperloader.training.run_config.RunConfig.load_tasks", refuse)
    monkeypatch.setattr("hyperloader.data.tasks.load_task", refuse)
    monkeypatch.setattr("hyperloader.data.tasks.load_tasks", refuse)


TRAIN = {
    "seed=4294967296": "seed must be a whole number, at least 0 and at most 4294967295, got 4294967296",
    "data_seed=-1": "data_seed must be a whole number, at least 0",
    "fraction=.nan": "fraction must be above 0 and at most 1, got nan",
    "training.steps=-5": "training: steps must be at least 1, got -5",
    "training.batch_size=0": "training: batch_size must be at least 1, got 0",
    "training.learning_rate=.nan": "training: learning_rate must be above 0, got nan",
    "training.learning_rate=-.inf": "training: learning_rate must be above 0, got -inf",
    "training.label_smoothing=1": "training: label_smoothing must be below 1, got 1.0",
    "training.report_to=everywhere": "training: report_to must be one of auto, none, tensorboard, ",
    "training.stepz=5": "unknown training option 'stepz'",
    "model.bottleneck=100000000": "config must describe a model that fits this machine's memory of",
    "model.rank=0": "model: rank must be at least 1, got 0",
    "model.norm=nan": "model: norm must be one of",
    "method=loraa": "full, got 'loraa'",
    "preset=3": "preset must be a string, got 3",
    "head=text": "language-model, got 'text'",
    "tasks=7": "tasks must be a task file or a list of tasks, got 7",
    "tasks={}": "tasks must be a task file or a list of tasks",
    "backbone=./nowhere": "Hugging Face Hub, minilm or smollm2, got ./nowhere",
    "backbone=~/no/where": "backbone must be a folder",
    "nothing": "--set must have the form KEY=VALUE",
    "model=[1]": "model must be a mapping, got [1]",
}


@pytest.mark.usefixtures("no_data")
@pytest.mark.parametrize(("assignment", "message"), TRAIN.items(), ids=TRAIN)
def test_train(fails, config_file, tmp_path, assignment, message):
    assert message in fails("train", config_file, "--output", tmp_path / "out", "--set", assignment)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_data")
def test_train_into_a_folder_with_a_run(fails, config_file, run_folder):
    assert f"{run_folder}: holds a run already; resume it" in fails("train", config_file)
    message = "holds another run, which differs in seed (0 there, 7 here)"
    assert message in fails("train", config_file, "--resume", "--seed", 7)


@pytest.mark.usefixtures("no_data")
def test_train_into_a_file(fails, config_file, tmp_path):
    (tmp_path / "file").touch()
    assert "output must be a folder, got the file" in fails("train", config_file, "--output", tmp_path / "file")


@pytest.mark.usefixtures("no_data")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "method=lora"), "the method lora needs PEFT, which is not installed; run: pip install peft"),
        (("--set", "training.report_to=tensorboard"), "needs tensorboard, which is not installed"),
    ],
)
def test_packages(fails, config_file, tmp_path, options, message, monkeypatch):
    monkeypatch.setattr("hyperloader.training.arguments.is_tensorboard_available", lambda: False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    values = yaml.safe_load(config_file.read_text()) | {"model": {}, "output": str(tmp_path / "out")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    assert message in fails("train", tmp_path / "run.yaml", *options)


@pytest.mark.usefixtures("no_data")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("evaluate", "RUN", "--split", "tset"),
            "split must be one of train, validation, test, got 'tset'; did you mean 'test'",
        ),
        (("evaluate", "RUN", "--task", "nowhere"), "task must be one of music, calendar, got 'nowhere'"),
        (("inspect", "RUN", "--split", "tset"), "test, got 'tset'"),
        (("predict", "RUN", "--task", "nowhere", "FILE"), "task must be one of music, calendar, got 'nowhere'"),
        (("data", "check", "TASKS", "--head", "text", "--backbone", "minilm"), "head must be one of"),
        (("data", "check", "TASKS", "--backbone", "./nowhere"), "backbone must be a folder"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, tuple) else "",
)
def test_other_commands(fails, run_folder, tmp_path, words, message):
    (tmp_path / "tasks.yaml").write_text("tasks: [{name: a, path: nowhere}]")
    (tmp_path / "file.txt").write_text("a b\n")
    places = {"RUN": run_folder, "TASKS": tmp_path / "tasks.yaml", "FILE": tmp_path / "file.txt"}
    assert message in fails(*(places.get(word, word) for word in words))
