import pytest

from hyperloader.data import DataError
from hyperloader.training.run_config import RunConfig

BASE = {"backbone": "minilm", "tasks": "tasks.yaml", "output": "runs/one"}


def test_yaml_and_back(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "backbone: minilm\ntasks: sub/tasks.yaml\noutput: runs/one\nmethod: lora\nmodel: {rank: 4}\n"
        "training: {learning_rate: 1e-3, steps: 5}\nfraction: 0.1\nseed: 3\n"
    )
    config = RunConfig.from_yaml(path)
    assert config.tasks == str(tmp_path / "sub" / "tasks.yaml")
    assert (config.output, config.head, config.preset) == ("runs/one", "token-classification", "default")
    assert (config.options.learning_rate, config.options.steps) == (1e-3, 5)
    (tmp_path / "other").mkdir()
    again = tmp_path / "other" / "config.yaml"
    again.write_text(config.to_yaml())
    assert RunConfig.from_yaml(again) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metod": "full"}, "unknown key 'metod'; did you mean 'method'"),
        ({"method": "hyperload"}, "unknown method 'hyperload'; did you mean 'hyperloader'"),
        ({"head": "text-2-text"}, "unknown head 'text-2-text'; did you mean 'text-to-text'"),
        ({"preset": "publish"}, "unknown preset 'publish'; did you mean 'published'"),
        ({"training": {"step": 3}}, "unknown training option 'step'; did you mean 'steps'"),
        ({"training": {"steps": 0}}, "steps must be at least 1, got 0"),
        ({"training": {"bucket": 3}}, "bucket must be a divisor of 256, got 3"),
        ({"training": [3]}, "training must be a mapping"),
        ({"model": {"rnk": 3}}, "unknown model option 'rnk'; did you mean 'rank'"),
        ({"method": "full", "model": {"rank": 3}}, "model.rank must not be given for the method full, got 3"),
        (
            {"method": "adapter", "model": {"lora_sites": []}},
            "model.lora_sites must not be given for the method adapter",
        ),
        ({"model": {"rank": 0}}, "model: rank must be at least 1, got 0"),
        ({"fraction": 0}, "fraction must be above 0 and at most 1, got 0"),
        ({"fraction": "all"}, "fraction must be above 0 and at most 1, got 'all'"),
        ({"seed": -1}, "seed must be a whole number, at least 0 and at most 4294967295, got -1"),
        ({"seed": 2**32}, "seed must be a whole number, at least 0 and at most 4294967295, got 4294967296"),
        ({"data_seed": 10**5000}, "data_seed must be a whole number, at least 0 and at most 18446744073709551615, got"),
        ({"fraction": float("nan")}, "fraction must be above 0 and at most 1, got nan"),
        ({"fraction": 10**5000}, "fraction must be above 0 and at most 1, got a int too large to show"),
        ({"training": {"steps": 2**31}}, "steps must be at least 1 and at most 2147483647, got 2147483648"),
        ({"training": {"steps": -(10**300)}}, "steps must be at least 1, got -1000"),
        ({"training": {"batch_size": 0}}, "batch_size must be at least 1, got 0"),
        ({"training": {"batch_size": 10**9}}, "batch_size must be at least 1 and at most 65536, got 1000000000"),
        ({"training": {"learning_rate": float("nan")}}, "learning_rate must be above 0, got nan"),
        ({"training": {"learning_rate": 10**400}}, "learning_rate must be a number, got 1000"),
        ({"training": {"learning_rate": "1e999"}}, "learning_rate must be above 0, got inf"),
        ({"training": {"warmup": 1e300}}, "warmup must be at least 0 and at most 2147483647, got 1e+300"),
        ({"training": {"steps": [[1]] * 10**5}}, "steps must be a whole number, got [[1], [1]"),
        ({"model": {"rank": 2**31}}, "model: rank must be at most 2147483647, got 2147483648"),
        ({"model": {"norm": [{}]}}, "model: norm must be one of post, pre, both, none, got [{}]"),
        ({"tasks": []}, "tasks must be a task file or a list of tasks"),
        ({"backbone": None}, "backbone must be a string, got None"),
    ],
)
def test_bad_values_are_refused_with_the_file(change, message):
    with pytest.raises(ValueError, match=r"^recipe\.yaml: .*") as caught:
        RunConfig.from_dict(BASE | change, source="recipe.yaml")
    assert message in str(caught.value)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match="config: output must be given, got none"):
        RunConfig.from_dict({"backbone": "minilm", "tasks": "t.yaml"})
    with pytest.raises(FileNotFoundError, match=r"none\.yaml: no such file"):
        RunConfig.from_yaml(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: b\n- c\n")
    with pytest.raises(ValueError, match=r"bad\.yaml:2: no YAML"):
        RunConfig.from_yaml(tmp_path / "bad.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(ValueError, match=r"empty\.yaml: must hold a mapping, got None"):
        RunConfig.from_yaml(tmp_path / "empty.yaml")


def test_inline_tasks_are_relative_to_the_file(data, tmp_path):
    config = RunConfig.from_dict(BASE | {"tasks": [{"name": "colours", "path": "colours"}]}, folder=data)
    assert [task.name for task in config.load_tasks()] == ["colours"]
    assert config.tasks == [{"name": "colours", "path": str(data / "colours")}]


def test_environment_variables_in_inline_tasks_stay_as_they_are(data, monkeypatch):
    config = RunConfig.from_dict(BASE | {"tasks": [{"name": "colours", "path": "$SOME_FOLDER/colours"}]})
    assert config.tasks == [{"name": "colours", "path": "$SOME_FOLDER/colours"}]
    monkeypatch.setenv("SOME_FOLDER", str(data))
    assert [task.name for task in config.load_tasks()] == ["colours"]


def test_errors_in_inline_tasks_name_the_task(data):
    tasks = [{"name": "colours", "path": "colours"}, {"name": "x", "pth": "colours"}]
    config = RunConfig.from_dict(BASE | {"tasks": tasks}, folder=data)
    with pytest.raises(DataError, match=r"^tasks\[1\]: unknown key 'pth'; did you mean 'path'"):
        config.load_tasks()


def test_a_variable_with_a_relative_path_starts_at_the_working_directory(data, monkeypatch):
    monkeypatch.chdir(data.parent)
    monkeypatch.setenv("SOME_DATA", data.name)
    config = RunConfig.from_dict(BASE | {"tasks": [{"name": "colours", "path": "${SOME_DATA}/colours"}]}, folder="/")
    assert [task.name for task in config.load_tasks()] == ["colours"]
    monkeypatch.delenv("SOME_DATA")
    with pytest.raises(DataError, match="environment variable 'SOME_DATA' is not set"):
        config.load_tasks()


def test_a_local_data_set_is_relative_to_the_file(tmp_path):
    tasks = [{"name": "saved", "dataset": "./saved"}, {"name": "hub", "dataset": "conll2003"}]
    config = RunConfig.from_dict(BASE | {"tasks": tasks}, folder=tmp_path)
    assert [task["dataset"] for task in config.tasks] == [str(tmp_path / "saved"), "conll2003"]


def test_presets_choose_the_model_where_the_run_does_not():
    def options(**changes):
        return RunConfig.from_dict(BASE | changes).model_options

    assert options() == {"init": "scaled", "norm": "none", "reduction_factor": 8}
    assert options(model={"norm": "pre"})["norm"] == "pre"
    assert options(preset="published")["init"] == "published"
    assert options(method="full") == options(method="lora") == {}


def test_a_backbone_that_is_a_folder_holds_in_every_directory(tmp_path, monkeypatch):
    for folder in ("beside/own", "here/other", "here/minilm"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")

    def backbone(name):
        values = {"backbone": name, "tasks": "tasks.yaml", "output": "out"}
        return RunConfig.from_dict(values, folder=tmp_path / "beside").backbone

    assert backbone("own") == str(tmp_path / "beside" / "own")
    assert backbone("other") == str(tmp_path / "here" / "other")
    for name in ("minilm", "t5-base", "~/t5"):
        assert backbone(name) == name
