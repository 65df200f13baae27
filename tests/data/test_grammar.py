"""The grammars of the demo: the same everywhere, valid BIO, test values unseen, the task decides."""

import hashlib
import json
import random

import pytest

from hyperloader.data import check_bio, grammar, load_tasks, spans
from hyperloader.data.grammar import OWN, POOLS, SHARED, SPLITS, TASKS, _read, _sentence, sentences, values, write


def values_of(found) -> set[str]:
    return {" ".join(one.tokens[start:end]) for one in found for _, start, end in spans(one.tags)}


def test_the_same_on_every_machine():
    text = json.dumps([[one.tokens, one.tags] for task in TASKS for one in sentences(task, "train", 50)])
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "0882f0e85af7e4337a6f06dde8f244d135ad0005ef3ae112c113d5d194e9beab"
    )


def test_the_seed_changes_the_sentences():
    assert sentences("music", "train", 20, seed=1) == sentences("music", "train", 20, seed=1)
    assert sentences("music", "train", 20, seed=1) != sentences("music", "train", 20, seed=2)
    assert sentences("music", "train", 20) == sentences("music", "train", 50)[:20]


@pytest.mark.parametrize("task", TASKS)
def test_valid_bio_no_repeats_all_types(task):
    train = sentences(task, "train", 400)
    types = {kind for one in train for kind, _, _ in spans(one.tags)}
    assert len({one.tokens for one in train}) == 400
    for split in SPLITS:
        found = sentences(task, split, 100)
        assert {kind for one in found for kind, _, _ in spans(one.tags)} == types
        for one in found:
            check_bio(one.tags)
            assert not any(mark in word for word in one.tokens for mark in "{}()|:+")
            assert not any(word.isupper() for word in one.tokens)


@pytest.mark.parametrize("task", TASKS)
def test_no_value_of_one_split_occurs_in_another(task):
    found = {split: values_of(sentences(task, split, 100 if split != "train" else 400)) for split in SPLITS}
    assert not found["train"] & found["test"]
    assert not found["train"] & found["validation"]
    assert not found["validation"] & found["test"]


@pytest.mark.parametrize("pool", POOLS)
def test_pools_hold_no_value_twice_and_some_for_every_split(pool):
    assert len(set(POOLS[pool])) == len(POOLS[pool])
    assert all(len(values(pool, split)) >= 2 for split in SPLITS)


@pytest.mark.parametrize("template", SHARED)
def test_the_same_words_have_other_spans_in_every_task(template):
    for seed in range(20):
        found = [_sentence(random.Random(seed), _read(template, task), "train") for task in TASKS]
        assert len({one.tokens for one in found}) == 1
        assert len({one.tags for one in found}) == len(TASKS)
        assert len({tuple(tag[0] for tag in one.tags) for one in found}) > 1


def test_templates_use_known_pools():
    for task in TASKS:
        for template in (*OWN[task], *(_read(one, task) for one in SHARED)):
            for inside in template.split("{")[1:]:
                pools = inside.partition("}")[0].rpartition(":")[2].split("+")
                assert set(pools) <= set(POOLS), template


def test_written_files_are_a_task_file(tmp_path):
    tasks = load_tasks(write(tmp_path, train=30, validation=10, test=12))
    assert [task.name for task in tasks] == list(TASKS)
    for task in tasks:
        assert task.train == sentences(task.name, "train", 30)
        assert task.test == sentences(task.name, "test", 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("weather", "train", 1), "task must be one of"),
        (("music", "dev", 1), "split must be one of"),
        (("music", "train", -1), "count must be at least 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        sentences(*arguments)


def test_a_grammar_that_is_used_up(monkeypatch):
    monkeypatch.setitem(OWN, "music", ("play (a|b)",))
    monkeypatch.setattr(grammar, "SHARED", ("stop",))
    assert len(sentences("music", "train", 3)) == 3
    with pytest.raises(ValueError, match="count must be within what the grammar of 'music' can make for train, got 4"):
        sentences("music", "train", 4)
