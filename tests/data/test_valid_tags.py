import itertools
import random

import pytest
import torch

from hyperloader.data import Sentence, TokenClassification, check_bio
from hyperloader.data.bio import repair_bio
from hyperloader.data.valid_tags import are_valid, best_labels, predecessors

LABELS = ["O", "B-x", "I-x", "B-y", "I-y"]
SHUFFLED = ["I-y", "B-x", "I-x", "O", "B-y"]


def is_valid(labels, path, continued):
    """Checked word by word, in words of its own."""
    before = None
    for number in path:
        name = labels[number]
        if name[:2] == "I-" and not (before is None and continued) and before not in (f"B-{name[2:]}", name):
            return False
        before = name
    return True


def by_trying(logits, labels, continued):
    """The best of all valid sequences; of equal ones that with the smaller ids, the last word counting first."""
    rows = logits.double().clamp(min=-1e30).tolist()
    tried = (
        (sum(row[label] for row, label in zip(rows, path, strict=True)), [-label for label in reversed(path)])
        for path in itertools.product(range(len(labels)), repeat=len(rows))
        if is_valid(labels, path, continued)
    )
    return [-label for label in reversed(max(tried)[1])]


def decoded(logits, labels, continued=False):
    follows = predecessors(labels).to(logits.device).expand(len(logits), -1, -1)
    return best_labels(logits, follows, torch.full((len(logits),), continued, device=logits.device))


@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize("words", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "labels", [LABELS, SHUFFLED, ["B-x", "O"], ["O"], ["I-x", "O"], ["I-x", "O", "B-y"]], ids=" ".join
)
def test_no_valid_sequence_is_better(labels, dtype, words, continued):
    draw = torch.Generator().manual_seed(words)
    logits = torch.randn(8, words, len(labels), generator=draw).to(dtype)
    logits[:4] = (2 * logits[:4]).round()  # with many that are equal
    found = decoded(logits, labels, continued).tolist()
    assert found == [by_trying(row, labels, continued) for row in logits]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_as_on_the_cpu():
    logits = (2 * torch.randn(64, 40, 5, generator=torch.Generator().manual_seed(0))).round()
    assert decoded(logits.cuda(), SHUFFLED).tolist() == decoded(logits, SHUFFLED).tolist()


def test_of_equal_sequences_the_smaller_ids_win():
    assert decoded(torch.zeros(1, 4, 5), LABELS).tolist() == [[0, 0, 0, 0]]
    assert decoded(torch.zeros(1, 4, 5), SHUFFLED).tolist() == [[4, 0, 0, 0]]  # B-y I-y I-y I-y


def test_impossible_labels_are_taken_only_where_nothing_else_is_valid():
    logits = torch.zeros(1, 3, 5)
    logits[..., 0] = logits[..., 1] = -torch.inf
    logits[:, 0, 3] = -3.0
    assert decoded(logits, LABELS).tolist() == [[3, 3, 3]]
    only_inside = torch.full((1, 3, 5), -torch.inf)
    only_inside[..., 2] = 1.0
    assert decoded(only_inside, LABELS).tolist() == [[1, 2, 2]]
    for value in (-torch.inf, torch.nan):
        assert decoded(torch.full((2, 3, 4), value), ["I-x", "O", "B-y", "I-y"]).tolist() == [[1, 1, 1]] * 2


def test_a_sequence_that_is_valid_is_found_to_be_so():
    follows = predecessors(SHUFFLED)
    for continued in (False, True):
        paths = torch.tensor(list(itertools.product(range(5), repeat=3)))
        found = are_valid(paths, follows.expand(len(paths), -1, -1), torch.full((len(paths),), continued))
        assert found.tolist() == [is_valid(SHUFFLED, path, continued) for path in paths.tolist()]


class Logits:
    """A model that gives these logits, whatever it is asked."""

    def __init__(self, logits):
        self.logits = logits

    def __call__(self, **inputs):
        return self


TASKS = {"short": ["O", "B-z"], "long": SHUFFLED}


def formulations(make_tokenizer, max_length):
    return [TokenClassification(make_tokenizer("wordpiece"), TASKS, max_length, valid) for valid in (False, True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("max_length", [6, 128])
def test_answers_to_a_mixed_batch(make_tokenizer, max_length, dtype):
    """Words without tokens, sentences of several windows, tasks with fewer labels: those are -inf."""
    each, best = formulations(make_tokenizer, max_length)
    draw = random.Random(max_length)
    lengths = [1, 2, 3, 7, 9, 4, 5, 8]
    sentences = [
        Sentence(tuple(draw.choice(["show", "Denver", "\u200b"]) for _ in range(length)), ("O",) * length)
        for length in lengths
    ]
    examples = [example for task in (0, 1) for n, one in enumerate(sentences) for example in best.encode(task, one, n)]
    batch = best.collate(examples)
    logits = torch.randn(*batch["input_ids"].shape, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[batch["task_ids"] == 0, :, 2:] = -torch.inf
    before, after = (one.ask(Logits(logits), batch, examples) for one in (each, best))
    changed = 0
    for row, (example, was, found) in enumerate(zip(examples, before, after, strict=True)):
        labels = TASKS[best.tasks[example.task_id]]
        tags = [labels[found.ids[place]] if place >= 0 else "O" for place in example.first_subwords]
        free = [labels[was.ids[place]] if place >= 0 else "O" for place in example.first_subwords]
        continued = example.window > 0
        if repair_bio(free) == free or (continued and repair_bio(["B-y", *free])[1:] == free):
            assert (was.ids, was.probabilities) == (found.ids, found.probabilities)
        else:
            changed += 1
            forced = torch.full((len(tags), len(labels)), -torch.inf, dtype=dtype)
            forced[:, labels.index("O")] = 0
            for word, place in enumerate(example.first_subwords):
                if place >= 0:
                    forced[word] = logits[row, place, : len(labels)]
            assert tags == [labels[label] for label in by_trying(forced, labels, continued)]
        shares = logits[row].float().softmax(-1)
        assert found.probabilities == [float(shares[place, label]) for place, label in enumerate(found.ids)]
        if not continued:
            check_bio(tags)
    assert changed > 3
    for tags in best.decode(examples, [answer.ids for answer in after]):
        check_bio(tags)


def test_a_model_of_one_task_gives_its_own_columns_alone(make_tokenizer):
    _, best = formulations(make_tokenizer, 128)
    examples = best.encode(0, Sentence(("show", "me"), ("O", "O")), 0)
    logits = torch.tensor([[[0.0, 1.0]]]).expand(1, len(examples[0].input_ids), 2)
    (answer,) = best.ask(Logits(logits), {}, examples)
    assert best.decode(examples, [answer.ids]) == [["B-z", "B-z"]]
