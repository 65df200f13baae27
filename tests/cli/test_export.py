"""`hyperloader export`: what it writes, and what it refuses."""

import json

import pytest


def test_ours_peft_and_transformers(call, fails, run_folder, tmp_path):
    assert "holds one" in fails("export", run_folder, tmp_path / "x", "--format", "ours")
    assert "PEFT's LoRA cannot hold" in fails(
        "export", run_folder, tmp_path / "x", "--format", "peft", "--task", "music"
    )
    for format, file, *options in (("ours", "hyperloader.json"), ("peft", "adapter_config.json", "--lora-only")):
        result = call("export", run_folder, tmp_path / format, "--format", format, "--task", "music", *options)
        assert result.exit_code == 0, result.output
        assert (tmp_path / format / file).exists()
    message = fails("export", run_folder, tmp_path / "hf", "--format", "transformers", "--task", "music")
    assert "transformers has no place for the adapters at" in message
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--format", "pickle"),
            "format must be one of ours, peft, transformers, onnx, torch-export, aot-inductor, got 'pickle'",
        ),
        (("--format", "torch-export", "--int8"), "--int8 must be given with the format onnx alone, got torch-export"),
        (("--format", "onnx", "--lora-only"), "--lora-only must be given with the format peft alone, got onnx"),
        (("--format", "onnx", "--opset", "11"), "opset must be from 18 to 23, got 11"),
        (("--format", "torch-export", "--opset", "18"), "--opset must be given with the format onnx alone"),
        (("--format", "ours", "--score"), "--score must be given with the format onnx alone, got ours"),
        (
            ("--format", "onnx", "--task", "musik"),
            "task must be one of music, calendar, got 'musik'; did you mean 'music'?",
        ),
    ],
)
def test_refused(fails, run_folder, tmp_path, options, message):
    assert message in fails("export", run_folder, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_an_output_in_use_is_left_alone(fails, run_folder, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    assert "must be a new or an empty folder" in fails("export", run_folder, tmp_path, "--format", "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_missing_library_says_how_to_install_it(fails, run_folder, tmp_path, monkeypatch):
    from hyperloader.training import exporting

    monkeypatch.setitem(exporting._NEEDED, "onnx", ("nowhere",))
    message = fails("export", run_folder, tmp_path / "out", "--format", "onnx")
    assert message.endswith("needs nowhere, which is not installed; run: pip install 'hyperloader[onnx]'")


@pytest.mark.slow
def test_onnx_scores_what_the_run_scores(call, run_folder, tmp_path):
    result = call("export", run_folder, tmp_path / "out", "--format", "onnx", "--int8", "--score", "--opset", "19")
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.onnx", "model.int8.onnx", "tasks.json", "tokenizer.json"} <= names
    written = pytest.importorskip("onnx").load(str(tmp_path / "out" / "model.onnx"))
    assert [one.version for one in written.opset_import if not one.domain] == [19]
    described = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert [task["name"] for task in described["tasks"]] == ["music", "calendar"]
    table = call("evaluate", run_folder).stdout.partition("\n\n")[2].strip()
    assert table in result.stdout


@pytest.mark.slow
def test_a_program_of_one_task(call, run_folder, tmp_path):
    result = call("export", run_folder, tmp_path / "out", "--format", "torch-export", "--task", "music")
    assert result.exit_code == 0, result.output
    described = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert [task["name"] for task in described["tasks"]] == ["music"]
    assert (tmp_path / "out" / "model.pt2").exists()
