"""Tasks of whole sentences: files and data sets, and every fault with its place."""

import json

import pytest

from hyperloader.data import DataError, load_tasks
from hyperloader.data.kinds import Kind
from hyperloader.data.labelled_text import LabelledText

CLASSES = "kind: classification"
GOOD = {"text": "to rome", "label": "flight"}
OTHER = {"text": "thank you", "label": "thanks"}


@pytest.fixture
def load(tmp_path):
    """Load a task of files by split: their text, or the objects of a .jsonl."""

    def load(files: dict, entry: str = "kind: classification"):
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            text = content if isinstance(content, str) else "".join(json.dumps(one) + "\n" for one in content)
            (folder / name).write_text(text)
        path = tmp_path / "tasks.yaml"
        path.write_text(f"tasks:\n  - {{name: t, path: data, {entry}}}\n")
        return load_tasks(path)[0]

    return load


def jsonl(train, validation=(GOOD, OTHER), test=(GOOD,)):
    return {"train.jsonl": train, "validation.jsonl": validation, "test.jsonl": test}


def content(examples):
    return [(one.text, one.text_pair, one.label) for one in examples]


def test_lines_of_json(load):
    task = load(jsonl([GOOD, {**OTHER, "id": 7, "text_pair": None}]))
    assert task.train[0] == LabelledText("to rome", None, "flight", task.train[0].path, 1)
    assert content(task.train) == [("to rome", None, "flight"), ("thank you", None, "thanks")]
    assert (task.kind, task.labels, task.warnings) == (Kind("classification"), ["flight", "thanks"], [])


def test_pairs_numbers_and_columns(load):
    rows = [{"a": "x", "b": "y", "score": 2}, {"a": "z", "b": "y", "score": 0.5}]
    entry = "kind: regression, columns: {text: a, text_pair: b, label: score}"
    task = load(jsonl(rows, rows, rows), entry)
    assert content(task.test) == [("x", "y", 2.0), ("z", "y", 0.5)]
    assert (task.kind, task.labels) == (Kind("regression", pair=True), ["value"])


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json"])
def test_the_same_in_csv_and_in_an_array(load, suffix):
    rows = [{"id": "1", **GOOD}, {"id": "2", "text": 'say, "hi"', "label": "thanks"}]
    separator = {"csv": ",", "tsv": "\t"}.get(suffix)
    if separator:
        lines = [
            separator.join(rows[0]),
            *(separator.join(f'"{v}"'.replace('"hi"', '""hi""') for v in row.values()) for row in rows),
        ]
        text = "\n".join(lines)
    else:
        text = json.dumps(rows, indent=1)
    task = load({f"{split}.{suffix}": text for split in ("train", "validation", "test")})
    assert content(task.train) == [("to rome", None, "flight"), ('say, "hi"', None, "thanks")]


def test_several_labels(load):
    rows = [{"text": "a", "label": ["y", "x"]}, {"text": "b", "label": []}]
    task = load(jsonl(rows, rows, rows), "kind: classification, multi_label: true")
    assert content(task.train) == [("a", None, ("x", "y")), ("b", None, ())]
    assert (task.kind, task.labels) == (Kind("multi-label"), ["x", "y"])


def test_several_labels_in_a_cell_are_separated_by_spaces(load):
    task = load(
        {f"{split}.csv": "text,label\na,x y\nb,\n" for split in ("train", "validation", "test")},
        "kind: classification, multi_label: true",
    )
    assert [one.label for one in task.train] == [("x", "y"), ()]


def test_whole_numbers_are_labels_with_and_without_names(load):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
    assert load(jsonl(rows, rows, rows)).labels == ["0", "1"]
    named = load(jsonl(rows, rows, rows), "kind: classification, names: [bad, good]")
    assert [one.label for one in named.train] == ["good", "bad"]


def test_labels_that_train_never_shows_stay_and_are_named(load):
    task = load(jsonl([GOOD, OTHER], [GOOD], [{"text": "x", "label": "new"}] * 2))
    assert task.labels == ["flight", "new", "thanks"]
    (warning,) = task.warnings
    assert "test has labels that train never shows (sentences): new (2)" in warning
    assert "counts as an error" in warning


def test_a_share_of_train_is_carved_by_text(load):
    rows = [{"text": f"t{number % 10}", "label": str(number % 2)} for number in range(40)]
    task = load({"train.jsonl": rows, "test.jsonl": rows}, "kind: classification, splits: {validation: 20%}")
    assert len(task.validation) == 8 and len(task.train) == 32
    assert not {one.text for one in task.train} & {one.text for one in task.validation}
    assert "carved" in task.notes[0]


@pytest.mark.parametrize(
    ("entry", "bad", "message"),
    [
        (CLASSES, {"text": "x"}, r"train.jsonl:2: the object has no 'label', it has 'text'; rename or add"),
        (CLASSES, {"label": "x"}, r"train.jsonl:2: the object has no 'text', it has 'label'"),
        (CLASSES, {"text": "x", "label": None}, "train.jsonl:2: label must be text or a whole number, got None"),
        (CLASSES, {"text": "x", "label": True}, "train.jsonl:2: label must be text or a whole number, got True"),
        (CLASSES, {"text": "x", "label": 1.5}, "train.jsonl:2: label must be text or a whole number, got 1.5"),
        (CLASSES, {"text": "x", "label": ["a"]}, "train.jsonl:2: label must be one label, .* multi_label"),
        (CLASSES, {"text": "x", "label": " a"}, "train.jsonl:2: label ' a' has white space at its ends"),
        (CLASSES, {"text": "x", "label": ""}, "train.jsonl:2: label '' is empty"),
        (CLASSES, {"text": " ", "label": "a"}, "train.jsonl:2: text is empty; write a text, or remove the line"),
        (CLASSES, {"text": 3, "label": "a"}, "train.jsonl:2: text must be text, got 3"),
        (CLASSES, {"text": "\ud800", "label": "a"}, "train.jsonl:2: text holds half of a surrogate pair"),
        (
            CLASSES,
            {"text": "x", "text_pair": "y", "label": "a"},
            "train.jsonl:2: the line has a text_pair, where .*train.jsonl:1 has none; give every line",
        ),
        (CLASSES + ", columns: {text_pair: b}", {"text": "x", "label": "a"}, "train.jsonl:1: the object has no 'b'"),
        (CLASSES + ", names: [p, q]", {"text": "x", "label": 2}, "train.jsonl:1: label is text, got 'flight'"),
        (
            "kind: regression",
            {"text": "x", "label": "3,5"},
            "train.jsonl:1: label must be a number for a regression, got 'flight'",
        ),
        (
            "kind: classification, multi_label: true",
            OTHER,
            "train.jsonl:1: label must be a list of labels with multi-label",
        ),
    ],
)
def test_a_bad_line_is_named_with_what_to_do(load, entry, bad, message):
    with pytest.raises(DataError, match=message):
        load(jsonl([GOOD, bad, OTHER]), entry)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("NaN", "label must be a finite number, got nan"),
        ("Infinity", "label must be a finite number, got inf"),
        ("1e999", "label must be a finite number, got inf"),
        ('"1.0"', "label must be a number for a regression, got '1.0'"),
        ("true", "label must be a number for a regression, got True"),
        ("1" * 400, "label must be a finite number"),
    ],
)
def test_a_number_that_is_none(load, label, message):
    with pytest.raises(DataError, match=f"train.jsonl:1: {message}"):
        load(jsonl(f'{{"text": "x", "label": {label}}}\n'), "kind: regression")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,lable\nx,1\n", "train.csv:1: the header must name text,label, each once, got text,lable"),
        ("text,label\nx,1\ny,a\n", "train.csv:3: label must be a number for a regression, got 'a'"),
        (
            "text,text_pair,text_pair,label\nx,y,z,1\n",
            "train.csv:1: the header must name text,label, each once, got text,t",
        ),
        ("text,label\nx,1e308\ny,-1e308\n", "tasks.yaml:2: task 't': labels must have a finite deviation, got some as"),
        ("text,label\nx,1_0\n", "train.csv:2: label must be a number for a regression, got '1_0'"),
        ("text,label\nx,nan\n", "train.csv:2: label must be a finite number, got nan"),
        ("text,label\nx,1,2\n", "train.csv:2: the row has 3 fields where the header has 2"),
        ("text,label\n,1\n", "train.csv:2: text is empty"),
        ("text,text_pair,label\nx,,1\n", "train.csv:2: text_pair is empty"),
        ("text,label\n", "train.csv:1: the file holds no text"),
    ],
)
def test_bad_csv(load, text, message):
    with pytest.raises(DataError, match=message):
        load({"train.csv": text, "validation.csv": text, "test.csv": text}, "kind: regression")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "kind: clasification",
            "tasks.yaml:2: kind must be one of tagging, classification, regression, text-to-text, completion, chat, "
            "got 'clasification'; did",
        ),
        ("kind: 3", "tasks.yaml:2: kind must be text, got '3'"),
        ("kind: regression, multi_label: true", "tasks.yaml:2: multi_label goes with kind: classification; remove it"),
        ("multi_label: true", "multi_label goes with kind: classification; remove it, got tagging"),
        ("kind: classification, multi_label: 1", "multi_label must be true or false, got '1'"),
        ("kind: classification, tags: bio", "tags goes with kind: tagging; remove it, got classification"),
        ("kind: regression, names: [a, b]", "names goes with kind: tagging or classification; remove it"),
        ("kind: classification, columns: {tokens: a}", "unknown key 'tokens'; the keys are text, text_pair, label"),
        ("columns: {text_pair: a}", "unknown key 'text_pair'"),
    ],
)
def test_a_bad_entry_is_named(load, entry, message):
    with pytest.raises(DataError, match=message):
        load(jsonl([GOOD, OTHER]), entry)


def test_data_that_teach_nothing_are_refused(load):
    with pytest.raises(DataError, match="tasks.yaml:2: task 't' must have at least 2 labels, got flight"):
        load(jsonl([GOOD], [GOOD], [GOOD]))
    same = [{"text": "x", "label": 3.0}] * 2
    with pytest.raises(DataError, match="tasks.yaml:2: task 't': labels must differ .* got 3 in every line of train"):
        load(jsonl(same, same, same), "kind: regression")


def test_a_folder_without_a_split_says_which_files_it_may_be(load):
    with pytest.raises(
        DataError, match=r"tasks.yaml:2: the folder .* has no validation .* \.jsonl\|\.json\|\.csv\|\.tsv\)"
    ):
        load({"train.jsonl": [GOOD]})
    with pytest.raises(
        DataError, match=r"train.conll: the suffix must be one of .jsonl, .json, .csv, .tsv, got '.conll'"
    ):
        load(
            {f"{split}.conll": "x" for split in ("train", "validation", "test")},
            "kind: classification, splits: {train: train.conll, validation: validation.conll, test: test.conll}",
        )


def test_a_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
        }
    )
    rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [1, 0]}
    split = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": split, "dev": split, "test": split}).save_to_disk(tmp_path / "saved")
    (tmp_path / "tasks.yaml").write_text(
        "tasks:\n"
        "  - {name: t, dataset: saved, kind: classification, columns: {text: sentence1, text_pair: sentence2}}\n"
        "  - {name: u, dataset: saved, kind: classification, columns: {text: sentence}}\n"
    )
    with pytest.raises(DataError, match=r"saved\[train\]: there is no column 'sentence', there are sentence1"):
        load_tasks(tmp_path / "tasks.yaml")
    text = (tmp_path / "tasks.yaml").read_text().splitlines()[:2]
    (tmp_path / "tasks.yaml").write_text("\n".join(text))
    (task,) = load_tasks(tmp_path / "tasks.yaml")
    assert content(task.validation) == [("a", "c", "yes"), ("b", "d", "no")]


def test_the_kind_is_stored_and_read(load):
    kind = Kind("regression", pair=True).standardised([1.0, 2.0, 6.0])
    assert (kind.mean, kind.deviation) == (3.0, pytest.approx((14 / 3) ** 0.5))
    assert Kind.from_dict(json.loads(json.dumps(kind.to_dict()))) == kind
    with pytest.raises(
        ValueError, match="kind must be one of tagging, classification, multi-label, regression, text-to"
    ):
        Kind("chats")


def test_a_data_set_of_texts_to_be_written(tmp_path):
    datasets = pytest.importorskip("datasets")
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    split = datasets.Dataset.from_dict({"long": ["a b"], "title": ["a"], "turns": [chat]})
    datasets.DatasetDict({"train": split, "validation": split, "test": split}).save_to_disk(tmp_path / "saved")
    (tmp_path / "tasks.yaml").write_text(
        "tasks:\n"
        "  - {name: t, dataset: saved, kind: text-to-text, columns: {source: long, target: title}}\n"
        "  - {name: c, dataset: saved, kind: chat, columns: {messages: turns}}\n"
    )
    titles, chats = load_tasks(tmp_path / "tasks.yaml")
    assert [(one.given, one.wanted) for one in titles.test] == [("a b", "a")] and titles.labels == []
    assert chats.train[0].messages == (chat[0],) and chats.train[0].reply == chat[1] and chats.kind == Kind("chat")
