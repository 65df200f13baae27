"""Merging in place, undoing it and detaching while other threads are in a forward: every answer is right or refused."""

import threading

import pytest
import torch
from helpers.tiny import TASKS, logits, make_model


def answers(model, threads, change, rounds=6):
    """Call ``model`` for every task in ``threads`` threads while ``change`` runs: wrong and right ones, refusals."""
    expected = {task: logits(model, "bert", task=task) for task in TASKS}
    wrong, right, refused, over, problems = [], [], [], threading.Event(), []

    def ask():
        try:
            while not over.is_set():
                for task in TASKS:
                    try:
                        found = logits(model, "bert", task=task)
                    except RuntimeError as error:
                        refused.append(str(error))
                        continue
                    (right if torch.allclose(found, expected[task]) else wrong).append(task)
        except BaseException as error:
            problems.append(error)
            raise

    askers = [threading.Thread(target=ask) for _ in range(threads)]
    for asker in askers:
        asker.start()
    try:
        for _ in range(rounds):
            change()
    finally:
        over.set()
        for asker in askers:
            asker.join()
    assert not problems
    return wrong, right, refused


def test_merging_and_undoing_it():
    model = make_model("bert")
    merged_right = []
    expected = logits(model, "bert", task="a")

    def change():
        merged = model.merge("a", inplace=True)
        merged_right.append(torch.allclose(logits(merged, "bert"), expected))
        model.unmerge()

    wrong, right, refused = answers(model, 3, change)
    assert wrong == []
    assert right
    assert all("'a' is merged into this model's backbone" in message for message in refused)
    assert all(merged_right)


def test_a_merge_waits_for_the_forward_that_is_running():
    """The forward is held in the middle of the backbone; the merge begins then."""
    model = make_model("bert")
    expected = logits(model, "bert", task="b c")
    inside, go_on, found = threading.Event(), threading.Event(), []

    def hold(*_):
        inside.set()
        go_on.wait(10)

    hook = model.backbone.encoder.layer[1].register_forward_pre_hook(hold)
    asker = threading.Thread(target=lambda: found.append(logits(model, "bert", task="b c")))
    asker.start()
    inside.wait(10)
    hook.remove()
    merger = threading.Thread(target=lambda: model.merge("a", inplace=True))
    merger.start()
    merger.join(0.2)
    assert merger.is_alive()
    go_on.set()
    asker.join(10)
    merger.join(10)
    torch.testing.assert_close(found[0], expected)
    with pytest.raises(RuntimeError, match="'a' is merged"):
        logits(model, "bert", task="b c")


@pytest.mark.parametrize("change", ["unmerge", "detach"])
def test_undoing_waits_too(change):
    model = make_model("bert")
    callee = model.merge("a", inplace=True) if change == "unmerge" else model
    selected = {} if change == "unmerge" else {"task": "a"}
    expected = logits(callee, "bert", **selected)
    inside, go_on, found = threading.Event(), threading.Event(), []
    layer = model.backbone.encoder.layer[1]

    def hold(*_):
        inside.set()
        go_on.wait(10)

    hook = layer.register_forward_pre_hook(hold)
    asker = threading.Thread(target=lambda: found.append(logits(callee, "bert", **selected)))
    asker.start()
    inside.wait(10)
    hook.remove()
    changer = threading.Thread(target=getattr(model, change))
    changer.start()
    changer.join(0.2)
    assert changer.is_alive()
    go_on.set()
    asker.join(10)
    changer.join(10)
    torch.testing.assert_close(found[0], expected)


def test_a_merge_inside_a_forward_is_refused():
    model = make_model("bert")
    hook = model.backbone.register_forward_pre_hook(lambda *_: model.merge("a", inplace=True))
    with pytest.raises(RuntimeError, match="must be called between two forwards"):
        logits(model, "bert", task="a")
    hook.remove()
    logits(model, "bert", task="a")


def test_a_forward_that_fails_is_over():
    model = make_model("bert")
    for selected in ({"task": "no such task"}, {}, {"task": "a", "task_ids": torch.zeros(5).long()}):
        with pytest.raises(ValueError, match="task"):
            logits(model, "bert", **selected)
    model.merge("a", inplace=True)
