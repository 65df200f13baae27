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
    assert config.output == str(tmp_path / "runs" / "one")
    assert (config.head, config.preset) == ("token-classification", "default")
    assert (config.options.learning_rate, config.options.steps) == (1e-3, 5)
    (tmp_path / "other").mkdir()
    again = tmp_path / "other" / "config.yaml"
    again.write_text(config.to_yaml())
    assert RunConfig.from_yaml(again) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metod": "full"}, "unknown key 'metod'; did you mean 'method'"),
        ({"method": "hyperload"}, "lora, full, got 'hyperload'; did you mean 'hyperloader'"),
        ({"head": "text-2-text"}, "language-model, got 'text-2-text'; did you mean 'text-to-text'"),
        ({"preset": "publish"}, "got 'publish'; did you mean 'published'"),
        ({"training": {"step": 3}}, "unknown training option 'step'; did you mean 'steps'"),
        ({"training": {"steps": 0}}, "training: steps must be at least 1, got 0"),
        ({"training": {"bucket": 3}}, "training: bucket must be a divisor of 256, got 3"),
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
        ({"training": {"steps": 2**31}}, "training: steps must be at least 1 and at most 2147483647, got 2147483648"),
        ({"training": {"steps": -(10**300)}}, "training: steps must be at least 1, got -1000"),
        ({"training": {"batch_size": 0}}, "training: batch_size must be at least 1, got 0"),
        (
            {"training": {"batch_size": 10**9}},
            "training: batch_size must be at least 1 and at most 65536, got 1000000000",
        ),
        ({"training": {"learning_rate": float("nan")}}, "training: learning_rate must be above 0, got nan"),
        ({"training": {"learning_rate": 10**400}}, "training: learning_rate must be a number, got 1000"),
        ({"training": {"learning_rate": "1e999"}}, "training: learning_rate must be above 0, got inf"),
        ({"training": {"warmup": 1e300}}, "training: warmup must be at least 0 and at most 2147483647, got 1e+300"),
        ({"training": {"steps": [[1]] * 10**5}}, "training: steps must be a whole number, got [[1], [1]"),
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
    with pytest.raises(ValueError, match=r"bad\.yaml:2: invalid YAML \(.*\); correct it"):
        RunConfig.from_yaml(tmp_path / "bad.yaml")
    (tmp_path / "latin.yaml").write_bytes("seed: 1\noutput: läuft\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.yaml:2: the file of a run is not UTF-8; save it as UTF-8"):
        RunConfig.from_yaml(tmp_path / "latin.yaml")
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


def test_a_data_set_that_is_a_folder_is_relative_to_the_file(tmp_path, monkeypatch):
    (tmp_path / "beside" / "saved").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    names = ("saved", "./none", "conll2003", "$SOME/data", "~/data")
    tasks = [{"name": name, "dataset": name} for name in names]
    config = RunConfig.from_dict(BASE | {"tasks": tasks}, folder="beside")
    beside = tmp_path / "beside"
    assert [task["dataset"] for task in config.tasks] == [str(beside / "saved"), str(beside / "none"), *names[2:]]


def test_a_data_set_beside_the_file_is_read_from_any_working_directory(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("hyperloader.data.tasks.hub_records", lambda dataset, *_, **__: seen.append(dataset) or 1 / 0)
    (tmp_path / "beside" / "saved").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    (tmp_path / "beside" / "tasks.yaml").write_text("tasks: [{name: one, dataset: saved}]")
    monkeypatch.chdir(tmp_path / "here")
    for tasks in ("tasks.yaml", [{"name": "one", "dataset": "saved"}]):
        with pytest.raises(ZeroDivisionError):
            RunConfig.from_dict(BASE | {"tasks": tasks}, folder="../beside").load_tasks()
    assert seen == [str(tmp_path / "beside" / "saved")] * 2


@pytest.mark.parametrize("inline", [False, True])
def test_a_data_set_in_the_working_directory_is_warned_of(tmp_path, monkeypatch, caplog, inline):
    seen = []
    monkeypatch.setattr("hyperloader.data.tasks.hub_records", lambda dataset, *_, **__: seen.append(dataset) or 1 / 0)
    (tmp_path / "beside").mkdir()
    (tmp_path / "saved").mkdir()
    (tmp_path / "beside" / "tasks.yaml").write_text("tasks: [{name: one, dataset: saved}]")
    monkeypatch.chdir(tmp_path)
    tasks = [{"name": "one", "dataset": "saved"}] if inline else "tasks.yaml"
    with pytest.raises(ZeroDivisionError):
        RunConfig.from_dict(BASE | {"tasks": tasks}, folder="beside").load_tasks()
    assert seen == [str(tmp_path / "saved")]
    (line,) = caplog.messages
    assert "working directory" in line
    assert "write dataset: ../saved" in line


def test_an_output_that_an_earlier_version_began_in_the_working_directory_goes_on_there(tmp_path, monkeypatch, caplog):
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(tmp_path)

    def output(name="runs/one"):
        return RunConfig.from_dict(BASE | {"output": name}, folder="beside").output

    assert output() == str(tmp_path / "beside" / "runs" / "one")
    (tmp_path / "runs" / "one").mkdir(parents=True)
    assert output() == str(tmp_path / "beside" / "runs" / "one")
    assert not caplog.messages
    (tmp_path / "runs" / "one" / "config.yaml").write_text("")
    assert output() == str(tmp_path / "runs" / "one")
    (line,) = caplog.messages
    assert "write output: ../runs/one" in line


def test_variables_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_FOLDER", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config = RunConfig.from_dict(BASE | {"output": "${SOME_FOLDER}/run", "tasks": "~/tasks.yaml"})
    assert (config.output, config.tasks) == (str(tmp_path / "run"), str(tmp_path / "home" / "tasks.yaml"))
    with pytest.raises(ValueError, match="config: the environment variable 'NO_SUCH' is not set"):
        RunConfig.from_dict(BASE | {"output": "$NO_SUCH/run"})


def test_the_file_that_a_run_has_saved_stands_for_its_folder(tmp_path):
    (tmp_path / "moved").mkdir()
    saved = tmp_path / "moved" / "config.yaml"
    saved.write_text("backbone: minilm\ntasks: tasks.yaml\noutput: runs/one\n")
    assert RunConfig.from_yaml(saved).output == str(tmp_path / "moved" / "runs" / "one")
    (tmp_path / "moved" / "labels.json").write_text("{}")
    assert RunConfig.from_yaml(saved).output == str(tmp_path / "moved")


def test_presets_choose_the_model_where_the_run_does_not():
    def options(**changes):
        return RunConfig.from_dict(BASE | changes).model_options

    assert options() == {"init": "scaled", "norm": "none", "reduction_factor": 8, "base_weights": True}
    assert "base_weights" not in options(method="hyperformer++") | options(method="adapter")
    assert options(model={"norm": "pre"})["norm"] == "pre"
    assert options(preset="published")["init"] == "published"
    assert options(method="full") == options(method="lora") == {}


def test_a_backbone_that_is_a_folder_holds_in_every_directory(tmp_path, monkeypatch, caplog):
    for folder in ("beside/own", "here/other", "here/minilm"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")

    def backbone(name):
        values = {"backbone": name, "tasks": "tasks.yaml", "output": "out"}
        return RunConfig.from_dict(values, folder=tmp_path / "beside").backbone

    assert backbone("own") == str(tmp_path / "beside" / "own")
    assert not caplog.messages
    assert backbone("other") == str(tmp_path / "here" / "other")
    assert "write backbone: ../here/other" in caplog.messages[0]
    assert backbone("./none") == "./none"
    for name in ("minilm", "t5-base", "~/t5"):
        assert backbone(name) == name


def test_sites_of_an_unknown_backbone():
    sites = {"self_attention.query": "h.*.q", "feed_forward": ["a.*.o", "b.*.o"]}
    assert RunConfig.from_dict({**BASE, "model": {"sites": sites}}).model_options["sites"] == sites
    with pytest.raises(ValueError, match="model: sites must be one of .*, got 'self_attention.qery'; did you mean"):
        RunConfig.from_dict({**BASE, "model": {"sites": {"self_attention.qery": "h.*.q"}}})
