"""The model card: metadata that the Hub reads, text that any name or label leaves whole, and whose file it is."""

import pytest
import torch
from helpers import tiny
from huggingface_hub import ModelCard, metadata_load

from hyperloader import HyperLoaderModel, TaskModel
from hyperloader.checkpoints.card import CardTask, model_card
from hyperloader.checkpoints.card_file import is_replaceable

REPO = "owner/name"


def test_the_metadata_are_what_the_hub_reads(tmp_path):
    tasks = [CardTask("a|b", "classification", ["x", "y"], scores={"test": ("accuracy", 0.5)}), CardTask("c", "chat")]
    card = model_card("About, as in", "google/t5", tasks, "print()", REPO, "mit")
    (tmp_path / "README.md").write_bytes(card)
    assert metadata_load(tmp_path / "README.md")["model-index"][0]["name"] == "name"
    data = ModelCard(card.decode()).data
    assert (data.library_name, data.base_model, data.license) == ("hyperloader", "google/t5", "mit")
    assert data.pipeline_tag == "text-classification"
    ((name, metric, value),) = [(one.dataset_name, one.metric_type, one.metric_value) for one in data.eval_results]
    assert (name, metric, value) == ("a|b", "accuracy", 0.5)
    assert "| a\\|b | classification | x, y | accuracy 0.500 |\n| c | chat |  |  |" in card.decode()


def test_scores_of_tasks_with_names_alike_are_kept_apart():
    """The test set's, where there is one; what is no number is in the table alone."""
    both = {"validation": ("f1", 0.5), "test": ("f1", 0.0)}
    names = ["a b", "a-b", "a-b-2", "!", "?", "城市"]
    tasks = [CardTask(name, "tagging", scores=both) for name in names]
    tasks.append(CardTask("untested", "tagging", scores={"validation": ("f1", 0.5)}))
    tasks.append(CardTask("nothing", "regression", scores={"test": ("pearson", float("nan"))}))
    text = model_card("As in", "", tasks, "").decode()
    found = ModelCard(text).data.eval_results
    expected = [*[(name, "test", 0.0) for name in names], ("untested", "validation", 0.5)]
    assert [(one.dataset_name, one.dataset_split, one.metric_value) for one in found] == expected
    assert "| untested | tagging |  | f1 0.500 |  |\n| nothing | regression |  |  | pearson nan |" in text


LABELS = [
    "a|b",
    "\\|",
    "one\ntwo",
    "one\r\u2028two",
    "<b>",
    "&lt;",
    "`x`",
    "**x**",
    "~~x~~",
    "__x__",
    "[x](y)",
    "größe_城",
]


@pytest.mark.parametrize("label", LABELS)
def test_a_label_stays_in_its_cell(label):
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    text = model_card("As in", "", [CardTask(label, "multi-label", [label, "last"])], "").decode()
    tokens = markdown.parse(ModelCard(text).text)
    cells = [tokens[number + 1].children for number, one in enumerate(tokens) if one.type == "td_open"]
    shown = ["".join(part.content for part in cell) for cell in cells]
    one_line = " ".join(label.splitlines())
    assert shown == [one_line, "multi-label", f"{one_line}, last"]
    assert {part.type for cell in cells for part in cell} <= {"text", "text_special"}


@pytest.mark.parametrize("folder", ["/home/me/secret", "./secret", "../a/secret", "secret", "a/secret"])
def test_a_folder_of_this_machine_is_not_told(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for parent in (tmp_path, tmp_path / "a"):
        (parent / "secret").mkdir(parents=True)
    assert b"secret" not in model_card("About", folder, [CardTask("a", "tagging")], "print()")


def test_models_write_one_with_every_save(tmp_path):
    tiny.make("bert").save_pretrained(tmp_path / "secret")
    model = tiny.make_model("bert", torch.float32)
    model.backbone.config._name_or_path = str(tmp_path / "secret")
    merged = model.merge("a")
    model.save_pretrained(tmp_path / "model")
    model.export_task("b c", tmp_path / "task")
    merged.save_pretrained(tmp_path / "merged")
    total = sum(one.numel() for one in merged.parameters())
    expected = {
        "model": f"{model.trainable_parameters():,} trained parameters, of ",
        "task": "One task's weights, ",
        "merged": f"A whole model of one task, {total:,} parameters: a `BertModel` with",
    }
    for folder, about in expected.items():
        card = ModelCard.load(tmp_path / folder / "README.md")
        assert about in card.text and "`BertModel`" in card.text
        assert "secret" not in card.content and str(tmp_path) not in card.content
        assert (card.data.pipeline_tag, card.data.base_model) == ("token-classification", None)
        call = "TaskModel.from_pretrained('path/to/this/folder')\n"
        if folder != "merged":
            call = "HyperLoaderModel.from_pretrained('path/to/this/folder', backbone)  # the BertModel that it was"
        assert f"\nmodel = {call}" in card.text
        assert f"torch {torch.__version__}" in card.text
    assert "| ü.weight | tagging | O, B-y, I-y, B-z, I-z |" in (tmp_path / "model" / "README.md").read_text("utf-8")
    model.backbone.config._name_or_path = "google/bert"
    model.save_pretrained(tmp_path / "model")
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert "HyperLoaderModel.from_pretrained('path/to/this/folder')\n" in card.text
    assert card.data.base_model == "google/bert" and "(https://huggingface.co/google/bert)" in card.text


def test_a_text_to_text_model(tmp_path):
    tiny.make_model("t5", torch.float32).save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag == "text-generation" and "| a | text |  |" in card.text


@pytest.mark.parametrize("change", ["an own file", "a word", "the last line", "Windows' ends of lines", "a folder"])
def test_a_card_of_the_users_is_kept_and_loading_ignores_it(tmp_path, change):
    model, path = tiny.make_model("bert", torch.float32), tmp_path / "README.md"
    model.save_pretrained(tmp_path)
    written = path.read_bytes()
    own = {
        "an own file": b"# Mine \xff\n",
        "a word": written.replace(b"trained", b"learned", 1),
        "the last line": written.rpartition(b"<!--")[0],
        "Windows' ends of lines": written.replace(b"\n", b"\r\n"),
    }.get(change)
    if own is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(own)
    assert not is_replaceable(path)
    model.save_pretrained(tmp_path)
    assert path.is_dir() if own is None else path.read_bytes() == own
    HyperLoaderModel.from_pretrained(tmp_path, tiny.make("bert"))


def test_a_card_of_ours_is_replaced(tmp_path):
    """Also by a model of other tasks, and where an editor took the last end of line away, or put one more."""
    model, path = tiny.make_model("t5", torch.float32), tmp_path / "README.md"
    for task, change in (("a", lambda text: text), ("b c", bytes.rstrip), ("a", lambda text: text + b"\n")):
        model.merge(task).save_pretrained(tmp_path)
        assert f"# {task}\n" in path.read_text("utf-8")
        path.write_bytes(change(path.read_bytes()))
    assert TaskModel.from_pretrained(tmp_path).task == "a"
