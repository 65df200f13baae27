"""Which file is which split, and parts carved from train."""

import json
import random

import pytest
from helpers.schemed import write_in

from hyperloader.data import DataError, Sentence, load_tasks, read_split
from hyperloader.data.splits import carve

LINE = '{"tokens": ["a"], "tags": ["O"]}\n'


def folder_of(tmp_path, *names, content="a O\n"):
    folder = tmp_path / "t"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(LINE if name.endswith(".jsonl") else content)
    return folder


def load(folder, options=""):
    task_file = folder.parent / "tasks.yaml"
    task_file.write_text(f"tasks:\n- {{name: t, path: {folder.name}{options}}}\n")
    (task,) = load_tasks(task_file)
    return task


@pytest.mark.parametrize(
    "names",
    [
        ("train.txt", "dev.txt", "test.txt"),
        ("train.conllu", "valid.tsv", "testb.iob2"),
        ("eng.train", "eng.testa", "eng.testb"),
        ("Training.bio", "VAL.iob", "test.conll"),
        ("train.jsonl", "development.txt", "test.csv"),
    ],
)
def test_other_names_of_splits_and_files(tmp_path, names):
    folder = folder_of(tmp_path, *names)
    if "test.csv" in names:
        (folder / "test.csv").write_text("tokens,tags\na,O\n")
    (folder / "README.md").write_text("x")
    task = load(folder)
    assert task.train == task.validation == task.test == [Sentence(("a",), ("O",))]
    assert task.notes == []


def test_folders_of_parallel_files(tmp_path):
    folder = tmp_path / "t"
    for split, words, tags in (
        ("train", "to  new york\nhi \n", "O B-c I-c\nO\n"),
        ("valid", "a", "O"),
        ("test", "a\n\n", "O\n"),
    ):
        (folder / split).mkdir(parents=True)
        (folder / split / "seq.in").write_text(words)
        (folder / split / "seq.out").write_text(tags)
        (folder / split / "label").write_text("flight\n")
    task = load(folder)
    assert task.train == [Sentence(("to", "new", "york"), ("O", "B-c", "I-c")), Sentence(("hi",), ("O",))]
    assert len(task.validation) == len(task.test) == 1
    (folder / "train" / "seq.out").write_text("O B-c\nO\n")
    with pytest.raises(DataError, match=r"train/seq\.in:1: .* got 3 tokens and 2 tags"):
        load(folder)
    (folder / "train" / "seq.out").write_text("O B-c I-c\n")
    with pytest.raises(DataError, match=r"must have equally many lines, got 2 and 1"):
        load(folder)
    (folder / "train" / "seq.out").unlink()
    with pytest.raises(DataError, match=r"seq\.out: the file does not exist"):
        load(folder)


def test_the_usual_file_goes_first_and_the_others_are_named(tmp_path):
    folder = folder_of(tmp_path, "train.jsonl", "validation.jsonl", "dev.txt", "test.jsonl")
    assert load(folder).notes == ["t: dev.txt is not read beside validation.jsonl"]


def test_what_the_folder_holds_is_listed(tmp_path):
    folder = folder_of(tmp_path, "train.jsonl", "heldout.txt", "sub/x.txt", "test.jsonl")
    with pytest.raises(DataError) as error:
        load(folder)
    assert str(error.value).startswith(f"{tmp_path}/tasks.yaml:2: the folder {folder} of task 't' has no validation (")
    assert "it holds heldout.txt, sub/, test.jsonl, train.jsonl; rename a file, or name it" in str(error.value)
    assert "or splits: {validation: 10%} takes it from train" in str(error.value)
    assert len(load(folder, ", splits: {validation: heldout.txt}").validation) == 1
    with pytest.raises(DataError, match=r"has no held\.txt for validation; it holds heldout\.txt"):
        load(folder, ", splits: {validation: held.txt}")
    folder_of(tmp_path, "dev.txt", "valid.txt")
    with pytest.raises(DataError, match=r"has dev\.txt and valid\.txt; give it exactly one, or name it with splits"):
        load(folder)


def test_of_many_files_of_a_split_a_few_are_named(tmp_path):
    many = [f"part{number:02}.train" for number in range(60)]
    named = "60 files such as part00.train, part01.train, part02.train"
    folder = folder_of(tmp_path, "validation.jsonl", "test.jsonl", *many)
    with pytest.raises(DataError, match=f"has {named}; give it exactly one"):
        load(folder)
    folder_of(tmp_path, "train.jsonl")
    assert load(folder).notes == [f"t: {named} is not read beside train.jsonl"]


def numbered(count):
    return [Sentence((f"w{number}",), ("O",)) for number in range(count)]


def test_a_part_is_carved_by_seed_and_noted(tmp_path):
    folder = folder_of(tmp_path, "train.jsonl", "test.jsonl")
    lines = [json.dumps({"tokens": [f"w{number}"], "tags": ["O"]}) for number in range(200)]
    (folder / "train.jsonl").write_text("\n".join(lines))
    task = load(folder, ", splits: {validation: 10%, seed: 3}")
    assert (len(task.train), len(task.validation)) == (180, 20)
    assert sorted(task.train + task.validation, key=lambda one: one.tokens) == sorted(
        numbered(200), key=lambda one: one.tokens
    )
    assert task.notes == ["t: validation 20 of 200 sentences of train were carved with seed 3"]
    assert load(folder, ", splits: {validation: 0.1, seed: 3}").validation == task.validation
    assert load(folder, ", splits: {validation: 0.1}").validation != task.validation
    both = load(folder, ", splits: {validation: 10%, test: .2, seed: 3}")
    assert (len(both.train), len(both.validation), len(both.test)) == (140, 20, 40)


def test_carved_parts_are_stable_and_never_overlap():
    sentences = numbered(300) + numbered(100)  # a hundred of them twice
    parts = carve(sentences, {"validation": 0.1}, 0)
    mixed = sentences[:]
    random.Random(1).shuffle(mixed)
    again = carve(mixed, {"validation": 0.1}, 0)
    assert not {one.tokens for one in parts["train"]} & {one.tokens for one in parts["validation"]}
    assert set(again["validation"]) == set(parts["validation"])
    assert 40 <= len(parts["validation"]) <= 41
    assert [one for one in sentences if one in set(parts["validation"])] == parts["validation"]


def test_a_share_that_leaves_nothing_is_refused(tmp_path):
    with pytest.raises(DataError, match="leave no sentence for validation of the 3 of train"):
        carve(numbered(3), {"validation": 0.1}, 0)
    with pytest.raises(DataError, match="leave no sentence for train"):
        carve(numbered(3), {"validation": 0.9}, 0)
    with pytest.raises(DataError, match=r"tasks\.yaml:2: task 't': splits leave no sentence for validation"):
        load(folder_of(tmp_path, "train.jsonl", "test.jsonl"), ", splits: {validation: 10%}")


def test_a_scheme_named_or_found_by_the_task(tmp_path):
    folder = folder_of(tmp_path, "train.txt", "dev.txt", "test.txt", content="a I-x\nb B-x\n")
    for options in ("", ", tags: iob1"):
        task = load(folder, options)
        assert task.train == [Sentence(("a", "b"), ("B-x", "B-x"))]
        assert task.notes == ["t: the tags are IOB1; 6 spans were converted to BIO"]
    (folder / "dev.txt").write_text("a I-x\nb B-y\n")
    with pytest.raises(DataError, match=r"dev\.txt:2: .*tags: repair"):
        load(folder)
    assert load(folder, ", tags: repair").validation == [Sentence(("a", "b"), ("B-x", "B-y"))]


def test_numbers_as_tags_have_names(tmp_path):
    folder = folder_of(tmp_path, "train.jsonl", "validation.txt", "test.jsonl", content="a 1\nb 2\nc 0\n")
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text('{"tokens": ["a", "b", "c"], "tags": [1, 2, 0]}\n')
    task = load(folder, ", names: [O, B-x, I-x]")
    assert task.train == task.validation == task.test == [Sentence(("a", "b", "c"), ("B-x", "I-x", "O"))]
    with pytest.raises(DataError, match=r"tag 2 must be a label from 0 to 1, got 2; label it, or correct names"):
        load(folder, ", names: [O, B-x]")
    (folder / "validation.txt").write_text("a O\n")
    with pytest.raises(
        DataError, match=r"train\.jsonl:1: the tags are numbers; say what they stand for with names: \["
    ):
        load(folder)


@pytest.mark.parametrize("scheme", ["iob1", "iobes", "bilou"])
def test_real_data_as_people_have_them(data_folder, tmp_path, scheme):
    """MIT Restaurant as seq.in folders and as numbered columns, in another scheme, read as the original."""
    folder, gold = tmp_path / "t", {}
    for split, name in (("train", "train"), ("validation", "valid"), ("test", "test")):
        gold[split] = read_split(data_folder / "mit_restaurant" / f"{split}.jsonl")
        (folder / name).mkdir(parents=True)
        (folder / name / "seq.in").write_text("".join(" ".join(one.tokens) + "\n" for one in gold[split]))
        tags = [" ".join(write_in(scheme, one.tags)) + "\n" for one in gold[split]]
        (folder / name / "seq.out").write_text("".join(tags))
    task = load(folder)
    assert {split: getattr(task, split) for split in gold} == gold
    lines = []
    for one in gold["test"]:
        tags = write_in(scheme, one.tags)
        lines += [f"{n}\t{word}\t_\t{tag}\n" for n, (word, tag) in enumerate(zip(one.tokens, tags, strict=True), 1)]
        lines.append("\n")
    (tmp_path / "test.conllu").write_text("# title\n" + "".join(lines))
    assert read_split(tmp_path / "test.conllu") == gold["test"]
