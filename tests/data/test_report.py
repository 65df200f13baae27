from hyperloader.data import Sentence, TextToText, report_rows
from hyperloader.data.tasks import Task


def task():
    one, two = Sentence(("a", "b"), ("B-x", "I-x")), Sentence(("c",), ("O",))
    long = Sentence(("d",) * 1200, ("B-x", "B-y") * 600)
    return Task("t", [one, two, one], [two, Sentence(("c", "c"), ("O", "O"))], [long], ["O"])


def test_rows_count_what_is_there():
    train, validation, test = report_rows([task()])
    assert train == {
        "task": "t",
        "split": "train",
        "sentences": 3,
        "words": 5,
        "spans": 2,
        "types": 1,
        "longest": 2,
        "mean": 1.7,
        "repeats": 1,
    }
    assert (validation["spans"], validation["types"], validation["repeats"]) == (0, 0, 1)
    assert (test["words"], test["spans"], test["types"], test["repeats"]) == (1200, 1200, 2, 0)


def test_a_formulation_adds_what_encoding_meets(letters_tokenizer):
    formulation = TextToText(letters_tokenizer, ["t"])
    for _ in range(2):
        train, _, test = report_rows([task()], formulation)
        assert (train["windows"], train["split_sentences"]) == (3, 0)
        assert (test["windows"], test["split_sentences"], test["over_words"], test["over_tokens"]) == (29, 1, 1, 1)


def test_train_is_encoded_for_training_and_the_rest_for_evaluation(letters_tokenizer):
    long_target = [Sentence(("a",) * 4, ("B-" + "x" * 10,) * 4)]
    rows = report_rows(
        [Task("t", long_target, long_target, long_target, ["O"])], TextToText(letters_tokenizer, ["t"], 30)
    )
    assert [row["windows"] for row in rows] == [2, 1, 1]
    assert [row["long_targets"] for row in rows] == [0, 1, 1]
