import pytest
import torch

from hyperloader.data.examples import Example, collate, join_windows


def example(task_id=0, sentence_id=0, window=0, windows=1, ids=(5, 6), labels=(1, -100)):
    return Example(task_id, sentence_id, window, windows, ids, labels, 1)


def test_a_batch_is_padded_on_the_right():
    batch = collate([example(), example(task_id=3, ids=(7, 8, 9), labels=(2, 3, 4))], 0)
    assert batch["input_ids"].tolist() == [[5, 6, 0], [7, 8, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [[1, -100, -100], [2, 3, 4]]
    assert batch["task_ids"].tolist() == [0, 3]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="at least one example, got none"):
        collate([], 0)


def test_windows_join_by_number_and_sentences_by_first_appearance():
    examples = [example(1, 4, 1, 2), example(0, 4), example(1, 4, 0, 2)]
    assert join_windows(examples, [["c"], ["x"], ["a", "b"]]) == [["a", "b", "c"], ["x"]]


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([example(windows=2)], "all 2 windows of sentence 0 of task 0, got 1"),
        ([example(window=1, windows=2)], "all 2 windows"),
        ([example(), example()], "got window 0 of sentence 0 of task 0 twice"),
    ],
)
def test_missing_and_repeated_windows_are_refused(examples, message):
    with pytest.raises(ValueError, match=message):
        join_windows(examples, [["O"]] * len(examples))


def test_a_missing_row_is_refused():
    with pytest.raises(ValueError, match=r"one row an example \(1\), got 0"):
        join_windows([example()], [])
