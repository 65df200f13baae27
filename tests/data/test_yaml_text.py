"""YAML that would take minutes, or all memory, is refused at once, with its line."""

import pytest
import yaml

from hyperloader.data import DataError
from hyperloader.data.task_file import read_task_file
from hyperloader.data.yaml_text import compose, load
from hyperloader.training.run_config import RunConfig

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
)
BAD = {
    "bomb": (BOMB, "more than 500,000 values, aliases written out"),
    "deep": ("[" * 10_000, "nested more than 32 deep"),
    "deep mapping": ("".join(" " * n + "a:\n" for n in range(40)), "nested more than 32 deep"),
    "itself": ("a: &a [*a]\n", r"the alias \*a stands for itself"),
    "twice": ("a: 1\nb: 2\na: 3\n", "the key 'a' stands already in line 1"),
    "twice in one line": ("{a: 1, a: 1}", "the key 'a' stands already in line 1"),
    "merged": ("x: &x {a: 1}\ny: {<<: *x, <<: *x}", "the key '<<' stands already"),
    "long": ("a: " + "x" * (5 << 20), "must have at most 4,194,304 characters"),
    "tag": ("a: !!python/object/apply:os.system [true]\n", "could not determine a constructor"),
    "digits": (f"a: {'1' * 5000}\n", "a value that cannot be read: .* 5000 digits$"),
    "date": ("a: 2020-13-45\n", "a value that cannot be read"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_refused(text, message, tmp_path):
    with pytest.raises(yaml.YAMLError, match=message):
        load(text)
    for file, error, read in (("run.yaml", ValueError, RunConfig.from_yaml), ("tasks.yaml", DataError, read_task_file)):
        (tmp_path / file).write_text(text)
        with pytest.raises(error, match=file):
            read(tmp_path / file)


def test_aliases_as_people_use_them():
    text = "base: &base {steps: 3}\na: {<<: *base, seed: 1}\nb: *base\n"
    assert load(text) == {"base": {"steps": 3}, "a": {"steps": 3, "seed": 1}, "b": {"steps": 3}}
    assert compose("") is None
    assert load("") is None


def test_a_bomb_on_the_command_line(tmp_path):
    from typer.testing import CliRunner

    from hyperloader.cli.commands import app

    path = tmp_path / "run.yaml"
    path.write_text(f"backbone: minilm\ntasks: tasks.yaml\noutput: {tmp_path / 'out'}\n")
    result = CliRunner().invoke(app, ["train", str(path), "--set", "model={a: &a [*a]}"])
    assert result.exit_code == 1
    assert "--set must have a YAML value, got" in result.stderr
