import pytest

from hyperloader.data import DataError, Sentence, load_tasks, read_hub
from hyperloader.data.hub import hub_records

datasets = pytest.importorskip("datasets")

NAMES = ["O", "B-city", "I-city", "B-day"]
GOOD = [Sentence(("to", "new", "york"), ("O", "B-city", "I-city")), Sentence(("now",), ("B-day",))]


def dataset(tokens, tags, item=None, names=("tokens", "ner_tags")):
    item = item or datasets.ClassLabel(names=NAMES)
    features = {names[0]: datasets.Sequence(datasets.Value("string")), names[1]: datasets.Sequence(item)}
    return datasets.Dataset.from_dict({names[0]: tokens, names[1]: tags}, features=datasets.Features(features))


def good(**options):
    return dataset([["to", "new", "york"], ["now"]], [[0, 1, 2], [3]], **options)


def save(folder, **splits):
    datasets.DatasetDict(splits).save_to_disk(folder)
    return folder


def test_class_labels_become_their_names(tmp_path):
    folder = save(tmp_path / "d", train=good())
    assert read_hub(folder, None, "train") == GOOD
    assert read_hub(str(folder), None, "train", {"tags": "ner_tags"}) == GOOD


def test_tags_may_be_text_and_columns_may_have_other_names(tmp_path):
    tags = [["O", "B-city", "I-city"], ["B-day"]]
    text = dataset([["to", "new", "york"], ["now"]], tags, datasets.Value("string"), ("words", "slots"))
    assert read_hub(save(tmp_path / "d", test=text), None, "test", {"tokens": "words", "tags": "slots"}) == GOOD


def test_a_folder_of_files_is_read(tmp_path):
    for split in ("train", "validation", "test"):
        good().to_parquet(tmp_path / f"{split}.parquet")
    assert read_hub(tmp_path, None, "validation") == GOOD


def test_a_task_file_may_name_a_data_set(tmp_path):
    save(tmp_path / "saved", train=good(), validation=good(), test=good())
    columns = "{tokens: tokens, tags: ner_tags}"
    (tmp_path / "tasks.yaml").write_text(f"tasks: [{{name: x, dataset: saved, columns: {columns}}}]")
    (task,) = load_tasks(tmp_path / "tasks.yaml")
    assert task.train == task.validation == task.test == GOOD
    assert task.labels == ["O", "B-city", "I-city", "B-day", "I-day"]


@pytest.mark.parametrize(
    ("tokens", "tags", "message"),
    [
        ([["a"], ["a", "b"]], [[0], [0]], "d[train]:2: tokens and tags must be equally many"),
        ([["a", "b"], ["b"]], [[0, 3], [2]], "d[train]:2: tag 1 'I-city' starts a span; write 'B-city'"),
        ([["a"], []], [[0], []], "d[train]:2: the sentence is empty"),
        ([["a"], ["b c"]], [[0], [0]], "d[train]:2: token 1 'b c' holds white space"),
        ([["a"], [None]], [[0], [0]], "d[train]:2: tokens must be a list of text, got None"),
        ([["a"], ["b"]], [[0], [-1]], "d[train]:2: tag 1 must be a label from 0 to 3, got -1"),
        ([["a"], ["b"]], [[0], [None]], "d[train]:2: tag 1 must be a label from 0 to 3, got None"),
        ([["a"], ["b"]], [[0], None], "d[train]:2: the row has no tags"),
    ],
)
def test_every_fault_is_named_with_split_and_row(tmp_path, tokens, tags, message):
    folder = save(tmp_path / "d", train=dataset(tokens, tags))
    with pytest.raises(DataError) as error:
        read_hub(folder, None, "train")
    assert message in str(error.value)


def test_an_empty_split_is_refused(tmp_path):
    dataset([], []).to_parquet(tmp_path / "files" / "train.parquet")
    with pytest.raises(DataError, match=r"files\[train\]: .*(no data|no sentence)"):
        read_hub(tmp_path / "files", None, "train")
    with pytest.raises(DataError, match=r"cannot be loaded|no sentence"):
        read_hub(save(tmp_path / "d", train=dataset([], [])), None, "train")


def test_what_is_not_there_is_named(tmp_path):
    folder = save(tmp_path / "d", train=good())
    with pytest.raises(DataError, match="no split 'test', there are train"):
        read_hub(folder, None, "test")
    with pytest.raises(DataError, match="no column 'tags', there are tokens, ner_tags; set columns"):
        read_hub(folder, None, "train", {"tags": "tags"})
    with pytest.raises(DataError, match="no configurations; remove config, got 'en'"):
        read_hub(folder, "en", "train")
    good().to_parquet(tmp_path / "files" / "train.parquet")
    with pytest.raises(DataError, match="there is no split 'test', there are train; .*splits: {test: 10%}"):
        read_hub(tmp_path / "files", None, "test")
    with pytest.raises(DataError, match="cannot be loaded"):
        read_hub(tmp_path / "nowhere", None, "train")
    good().save_to_disk(tmp_path / "single")
    with pytest.raises(DataError, match="save a DatasetDict"):
        read_hub(tmp_path / "single", None, "train")


def test_numbers_without_names_are_refused(tmp_path):
    folder = save(tmp_path / "d", train=good(item=datasets.Value("int64")))
    with pytest.raises(
        DataError, match=r"column 'ner_tags' must hold lists of text or of numbers with ClassLabel names"
    ):
        read_hub(folder, None, "train")


def test_numbers_without_names_may_get_some(tmp_path):
    rows = {split: good(item=datasets.Value("int64")) for split in ("train", "validation", "test")}
    save(tmp_path / "d", **rows)
    task_file = tmp_path / "tasks.yaml"
    task_file.write_text(f"tasks: [{{name: x, dataset: d, names: [{', '.join(NAMES)}]}}]")
    (task,) = load_tasks(task_file)
    assert task.test == GOOD
    save(tmp_path / "e", **{split: good() for split in rows})
    task_file.write_text("tasks: [{name: x, dataset: e, names: [O, B-x]}]")
    assert task.notes == []
    with pytest.raises(DataError, match="has names of its own, O, B-city, I-city, B-day; remove names"):
        load_tasks(task_file)


def test_names_of_text_are_refused(tmp_path):
    text = dataset([["a"]], [["O"]], datasets.Value("string"))
    with pytest.raises(DataError, match="column 'ner_tags' holds text, and names go with numbers; remove names"):
        hub_records(save(tmp_path / "d", train=text), None, "train", names=NAMES)


def test_splits_of_other_names_and_schemes(tmp_path):
    tags = [["O", "I-city", "I-city"], ["I-day"]]
    rows = dataset([["to", "new", "york"], ["now"]], tags, datasets.Value("string"))
    save(tmp_path / "d", train=rows, dev=rows, eval=rows)
    task_file = tmp_path / "tasks.yaml"
    task_file.write_text("tasks: [{name: x, dataset: d, splits: {test: eval}}]")
    (task,) = load_tasks(task_file)
    assert task.train == task.validation == task.test == GOOD
    assert task.notes == ["x: the tags are IOB1; 6 spans were converted to BIO"]
    task_file.write_text("tasks: [{name: x, dataset: d, splits: {test: 50%}}]")
    (task,) = load_tasks(task_file)
    assert (len(task.train), len(task.test)) == (1, 1)


def test_a_slice_of_a_split(tmp_path):
    for split in ("train", "test"):
        good().to_parquet(tmp_path / "files" / f"{split}.parquet")
    (tmp_path / "tasks.yaml").write_text(
        "tasks: [{name: x, dataset: files, splits: {train: 'train[:50%]', validation: 'train[50%:]'}}]"
    )
    (task,) = load_tasks(tmp_path / "tasks.yaml")
    assert (task.train, task.validation, task.test) == (GOOD[:1], GOOD[1:], GOOD)


def test_code_that_comes_with_a_data_set_is_never_run(tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    with pytest.raises(DataError, match="cannot be loaded"):
        read_hub(tmp_path / "script", None, "train")
    assert not ran.exists()
