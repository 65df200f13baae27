import json
import subprocess
import sys

import pytest

from hyperloader.data import DataError, Sentence, load_tasks, subset


def write_task(folder, **splits):
    folder.mkdir()
    for split, rows in splits.items():
        lines = [json.dumps({"tokens": [f"w{n}" for n in range(len(tags))], "tags": tags}) for tags in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    task_file = folder.parent / "tasks.yaml"
    task_file.write_text(f"tasks:\n- name: t\n  path: {folder.name}\n")
    return task_file


def test_types_that_training_never_shows_are_kept_and_warned_of(tmp_path):
    task_file = write_task(
        tmp_path / "t", train=[["B-seen", "O"]], validation=[["B-seen"]], test=[["B-new", "I-new", "B-new"], ["B-rare"]]
    )
    (task,) = load_tasks(str(task_file))
    assert task.labels == ["O", "B-new", "I-new", "B-rare", "I-rare", "B-seen", "I-seen"]
    assert [len(task.train), len(task.validation), len(task.test)] == [1, 1, 2]
    (warning,) = task.warnings
    assert warning.startswith("t: test has types that train never shows (spans): new (2), rare (1);")


def test_equal_splits_give_no_warning(tmp_path):
    (task,) = load_tasks(write_task(tmp_path / "t", train=[["B-x"]], validation=[["O"]], test=[["B-x"]]))
    assert task.warnings == []


def test_splits_may_have_different_formats(tmp_path):
    task_file = write_task(tmp_path / "t", train=[["O"]], validation=[["O"]])
    (tmp_path / "t" / "test.conll").write_text("a B-x\n")
    assert load_tasks(task_file)[0].test == [Sentence(("a",), ("B-x",))]


def test_missing_and_doubled_files_are_named_with_the_line_of_the_task(tmp_path):
    task_file = write_task(tmp_path / "t", train=[["O"]], validation=[["O"]])
    with pytest.raises(
        DataError, match=rf"{task_file}:2: .*of task 't' has no test .*it holds train\.jsonl, validation\.jsonl;"
    ):
        load_tasks(task_file)
    (tmp_path / "t" / "test.conll").write_text("a O\n")
    (tmp_path / "t" / "test.csv").write_text("tokens,tags\na,O\n")
    with pytest.raises(DataError, match=r"has test\.conll and test\.csv; give it exactly one"):
        load_tasks(task_file)


def test_missing_folders_are_named(tmp_path):
    task_file = tmp_path / "tasks.yaml"
    task_file.write_text("tasks: [{name: t, path: nowhere}]")
    with pytest.raises(DataError, match=r"tasks\.yaml:1: the folder .*nowhere of task 't' does not exist"):
        load_tasks(task_file)
    (tmp_path / "nowhere").write_text("")
    with pytest.raises(DataError, match="is no folder"):
        load_tasks(task_file)


def test_a_fault_in_a_split_names_its_own_file_and_line(tmp_path):
    task_file = write_task(tmp_path / "t", train=[["O"], ["I-x"]], validation=[["B-x"]], test=[["O"]])
    with pytest.raises(DataError, match=rf"{tmp_path}/t/train\.jsonl:2: tag 1 'I-x' starts a span"):
        load_tasks(task_file)


def numbered(count):
    return [Sentence((str(number),), ("O",)) for number in range(count)]


def test_subsets_are_the_same_everywhere():
    """SHA-256 ranks the positions; the expected ones were computed by hand with hashlib alone."""
    taken = [int(sentence.tokens[0]) for sentence in subset(numbered(20), 0.25, 1, "atis")]
    code = (
        "import hashlib; rank = lambda i: hashlib.sha256(b'1\\0atis\\0' + str(i).encode()).digest();"
        "print(sorted(sorted(range(20), key=rank)[:5]))"
    )
    assert str(taken) == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()


def test_subsets_keep_order_nest_and_depend_on_seed_and_task():
    sentences = numbered(1000)
    small, large = (subset(sentences, fraction, 0, "t") for fraction in (0.1, 0.5))
    assert (len(small), len(large)) == (100, 500)
    assert small == [sentence for sentence in sentences if sentence in set(small)]
    assert set(small) < set(large)
    assert subset(sentences, 0.1, 1, "t") != small
    assert subset(sentences, 0.1, 0, "u") != small
    assert subset(sentences, 1, 0, "t") == sentences
    assert 350 < sum(int(sentence.tokens[0]) < 500 for sentence in large) * 2 < 650
    assert len(subset(numbered(15), 0.1, 0, "t")) == 2


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan"), "0.5"])
def test_fractions_outside_are_refused(fraction):
    with pytest.raises(ValueError, match="fraction must be above 0 and at most 1"):
        subset(numbered(10), fraction, 0, "t")


def test_nothing_left_is_an_error():
    with pytest.raises(DataError, match=r"task 't': fraction 0\.1 of 4 sentences leaves nothing; raise the fraction"):
        subset(numbered(4), 0.1, 0, "t")
    with pytest.raises(DataError, match="leaves nothing"):
        subset([], 1, 0, "t")
