"""What a run of a text model refuses, or warns of, in one line with its place."""

import json

import pytest
import yaml
from helpers import text_run

from hyperloader.training.run_config import RunConfig


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    return text_run.write_config(tmp_path_factory.mktemp("text"))


def bad(config_file, tmp_path, task, rows=None, **changes):
    """A run of one task, with other lines in its training file."""
    values = RunConfig.from_yaml(config_file).to_dict()
    (entry,) = (dict(one) for one in values["tasks"] if one["name"] == task)
    if rows is not None:
        for split in ("train", "validation", "test"):
            (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        entry["path"] = str(tmp_path)
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(values | {"tasks": [entry | changes], "output": str(tmp_path / "run")}))
    return path


@pytest.mark.parametrize(
    ("task", "row", "parts"),
    [
        ("answer", {"prompt": "a", "completion": " "}, ["train.jsonl:1: completion is empty; write a text"]),
        ("answer", {"prompt": "a"}, ["train.jsonl:1: the object has no 'completion', it has 'prompt'"]),
        ("answer", {"prompt": 3, "completion": "a"}, ["train.jsonl:1: prompt must be text, got 3"]),
        ("answer", {"prompt": "red " * 90, "completion": "a"}, [":1: the prompt has 91 tokens", "leaves room for 64"]),
        ("short", {"source": "a", "target": ""}, ["train.jsonl:1: target is empty"]),
        ("talk", {"messages": []}, ["train.jsonl:1: messages must be a list such as"]),
        ("talk", {"messages": [{"role": "user"}]}, ["train.jsonl:1: message 1 has no 'content', it has 'role'"]),
        ("talk", {"messages": [{"role": "user", "content": "a"}]}, ["must be the assistant's, got one of 'user'"]),
        ("talk", {"messages": [{"role": "assistant", "content": "a"}]}, ["messages must hold one before the"]),
    ],
)  # fmt: skip
def test_a_bad_line_is_one_line_with_its_place(config_file, tmp_path, fails, task, row, parts):
    line = fails("train", bad(config_file, tmp_path, task, [row]))
    for part in parts:
        assert part in line


def test_a_kind_that_the_backbone_cannot_do_is_said_before_data_are_read(config_file, tmp_path, fails):
    line = fails("train", bad(config_file, tmp_path, "short", kind="regression", path="nowhere"))
    assert "tasks[0]: task 'short' of kind regression needs head: token-classification, got language-model" in line
    file = bad(config_file, tmp_path, "talk", path="nowhere")
    file.write_text(file.read_text().replace("head: language-model", "head: text-to-text"))
    assert "tasks[0]: task 'talk' of kind chat needs head: language-model, got text-to-text" in fails("train", file)


def test_a_missing_chat_template_is_said_before_data_are_read(config_file, tmp_path, fails):
    tokens = text_run.tokenizer()
    tokens.chat_template = None
    text_run.make("llama", len(tokens)).save_pretrained(tmp_path / "plain")
    tokens.save_pretrained(tmp_path / "plain")
    file = bad(config_file, tmp_path, "talk", path="nowhere")
    file.write_text(file.read_text().replace(str(config_file.parent / "llama"), str(tmp_path / "plain")))
    assert "tasks[0]: the tokenizer has no chat template; take a model that was trained for chats" in fails(
        "train", file
    )


def test_a_label_that_train_never_shows_is_warned_of(config_file, tmp_path, call):
    file = bad(config_file, tmp_path, "which", [{"text": "a", "label": "to_a"}, {"text": "b", "label": "to_b"}])
    (tmp_path / "test.jsonl").write_text('{"text": "c", "label": "to_c"}\n')
    result = call("data", "check", file)
    assert "which: test has labels that train never shows (sentences): to_c (1)" in result.output


def test_lines_of_csv_have_the_columns_that_are_named(config_file, tmp_path, call):
    file = bad(config_file, tmp_path, "short", columns={"source": "long", "target": "title"}, path=str(tmp_path))
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.csv").write_text('id,long,title\n1,"red, in rome",red\n')
    assert call("data", "check", file).exit_code == 0
    messages = json.dumps([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]).replace('"', '""')
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.csv").write_text(f'messages\n"{messages}"\n')
    file = bad(config_file, tmp_path, "talk", path=str(tmp_path))
    assert call("data", "check", file).exit_code == 0


def test_rouge_needs_its_library(config_file, tmp_path, fails, monkeypatch):
    from hyperloader.training import requirements

    original = requirements.importlib.util.find_spec
    gone = lambda name, *rest: None if name == "rouge_score" else original(name, *rest)  # noqa: E731
    monkeypatch.setattr(requirements.importlib.util, "find_spec", gone)
    line = fails("train", bad(config_file, tmp_path, "short"))
    assert "kind text-to-text is scored by rouge-score, which is not installed; run: pip install rouge-score" in line
