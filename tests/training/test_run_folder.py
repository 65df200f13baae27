"""One run at a time in a folder, and a folder that vanishes."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hyperloader.training.run import train
from hyperloader.training.run_folder import RunFolderError, check_output, own_folder, stated

HOLDER = """
import sys, time
from pathlib import Path
from hyperloader.training.run_folder import own_folder
with own_folder(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the folder tmp_path/run."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"HYPERLOADER_NATIVE": "none"}) as process:
        assert process.stdout.readline() == b"mine\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_and_told_who_has_the_folder(holder, settings, tmp_path):
    for resume in (False, True):
        with pytest.raises(RunFolderError, match=f"run: another run trains there now .process {holder.pid} on .*since"):
            train(settings(method="full"), resume=resume, progress=False)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with own_folder(tmp_path / "run") as folder:  # a killed process keeps nothing
        folder.check()
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_process_does_not_train_twice_in_a_folder(tmp_path):
    with own_folder(tmp_path / "run"):
        with pytest.raises(RunFolderError, match="this process trains there already"), own_folder(tmp_path / "run"):
            pass
        assert (tmp_path / "run" / ".lock").is_file()


def test_only_what_was_made_and_is_empty_is_removed(tmp_path):
    with pytest.raises(KeyError), own_folder(tmp_path / "a" / "b"):
        raise KeyError
    assert not (tmp_path / "a").exists()
    (tmp_path / "empty").mkdir()
    with own_folder(tmp_path / "empty"), own_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").write_text("")
    assert (tmp_path / "empty").is_dir()
    assert (tmp_path / "a" / "b" / "file").is_file()


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_is_gone_or_another_is_seen(tmp_path, again):
    with own_folder(tmp_path / "run") as folder:
        folder.check()
        shutil.rmtree(tmp_path / "run")
        if again:
            (tmp_path / "run").mkdir()
        with pytest.raises(RunFolderError, match="deleted, moved or replaced"):
            folder.check()


@pytest.mark.parametrize("moment", ["on_step_end", "on_evaluate", "on_save", "on_train_end"])
def test_an_output_that_is_deleted_during_training_is_an_error(settings, tmp_path, monkeypatch, moment):
    from hyperloader.training.reporting import EvaluationLines

    def delete(self, args, state, control, **_):
        if state.global_step >= 3:
            shutil.rmtree(tmp_path / "run", ignore_errors=True)

    monkeypatch.setattr(EvaluationLines, moment, delete)
    with pytest.raises(RunFolderError, match="run: the folder was deleted"):
        train(settings(method="full"), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def none(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.lockf", none)
    with own_folder(tmp_path / "run"):
        assert "has no locks" in caplog.text
    assert not (tmp_path / "run").exists()


def test_a_default_that_differs_is_said(settings):
    config = settings()
    Path(config.output).mkdir()
    (Path(config.output) / "config.yaml").write_text(stated(config).to_yaml())
    assert check_output(config, resume=True) is None
    other = dataclasses.replace(config, backbone_dtype="bfloat16", backbone_quantization="torchao-int8")
    message = r"_quantization \(nothing there, 'torchao-int8' here\), backbone_dtype \('float32' there, 'bfloat16' here"
    with pytest.raises(ValueError, match=message):
        check_output(other, resume=True)
