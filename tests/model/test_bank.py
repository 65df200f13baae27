"""The weight bank: what is generated once, what is noticed, what is forgotten."""

import copy
import threading

import pytest
import torch
from helpers.tiny import TASK_IDS, TASKS, make_batch, make_model

from hyperloader.nn import bank
from hyperloader.nn.bank import process_statistics


def counts(model):
    statistics = model.bank.statistics()
    return statistics["generated"], statistics["dropped"]


@torch.no_grad()
def run(model, name="t5", **selected):
    return model(**make_batch(name), **selected).logits


@pytest.fixture
def model():
    return make_model()


def without_bank(model, **selected):
    """What the model computes when everything is generated anew."""
    fresh = make_model()
    fresh.load_state_dict(model.state_dict())
    with torch.enable_grad():
        return fresh(**make_batch(), **selected).logits.detach()


def test_one_generation_for_a_task_over_an_evaluation(model):
    for _ in range(3):
        for task in TASKS:
            torch.testing.assert_close(run(model, task=task), without_bank(model, task=task))
        torch.testing.assert_close(run(model, task_ids=TASK_IDS), without_bank(model, task_ids=TASK_IDS))
        batch = make_batch()
        model.generate(input_ids=batch["input_ids"], task_ids=TASK_IDS, max_new_tokens=4, num_beams=2)
    assert counts(model) == (3, 0)
    assert model.bank.statistics()["served"] == 3 * 3 + 6 * 3 - 3


def test_a_mixed_batch_first(model):
    for task_ids in (torch.tensor([2, 2, 1, 1, 2]), TASK_IDS):
        torch.testing.assert_close(run(model, task_ids=task_ids), without_bank(model, task_ids=task_ids))
    assert counts(model) == (3, 0)


@pytest.mark.parametrize("fused", [False, True])
def test_none_is_stale_after_a_step(model, fused):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, fused=fused)
    before = run(model, task="a")
    with torch.enable_grad():  # in evaluation mode, so that nothing but the step tells the bank
        model(**make_batch(), task="a").loss.backward()
    optimizer.step()
    after = run(model, task="a")
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, without_bank(model, task="a"))
    assert counts(model) == (2, 1)


@pytest.mark.parametrize("change", ["load", "assign", "head in place", "half and back", "data", "buffer"])
def test_every_change_is_noticed(model, change):
    for task in TASKS:
        run(model, task=task)
    other = make_model()
    with torch.no_grad():
        for parameter in other.generators.parameters():
            parameter.mul_(1.1)
    if change == "load":
        model.load_state_dict(other.state_dict())
    elif change == "assign":
        model.load_state_dict(other.state_dict(), assign=True)
    elif change == "head in place":
        with torch.no_grad():
            model.generators["decoder"].heads["up_weight"].bias.add_(0.5)
    elif change == "half and back":
        model.half().double()
    elif change == "data":
        parameter = model.generators["encoder"].condition.norm.weight
        parameter.data = parameter.data * 2
    else:
        model.generators["encoder"]._layers.copy_(model.generators["encoder"]._layers.flip(0))
    found = run(model, task="a")
    if change == "buffer":
        assert counts(model) == (4, 3)
        return
    torch.testing.assert_close(found, without_bank(model, task="a"))
    assert counts(model) == (4, 3)


def test_a_change_of_one_embedding_drops_that_task_alone(model):
    for task in TASKS:
        run(model, task=task)
    kept = run(model, task="a")
    with torch.no_grad():
        model.task_embedding.weight[1].add_(1)
    torch.testing.assert_close(run(model, task="b c"), without_bank(model, task="b c"))
    assert torch.equal(run(model, task="a"), kept)
    assert counts(model) == (4, 1)


def test_another_dtype_of_the_backbone_is_noticed(model):
    run(model, task="a")
    model.backbone.float()
    assert model(**make_batch(), task="a").logits.dtype == torch.float32
    assert run(model, task="a").dtype == torch.float32
    assert counts(model) == (2, 1)


def test_memory_is_bounded(model):
    run(model, task="a")
    one = model.bank.statistics()["bytes"]
    model.bank.limit_bytes = 2 * one
    expected = {task: without_bank(model, task=task) for task in TASKS}
    for task in ("a", "b c", "a", "ü.weight", "a", "b c"):
        torch.testing.assert_close(run(model, task=task), expected[task])
        assert model.bank.statistics()["bytes"] <= 2 * one
    assert counts(model)[0] == 4  # of "b c" twice
    assert model.bank.statistics()["evicted"] == 2
    torch.testing.assert_close(run(model, task_ids=TASK_IDS), without_bank(model, task_ids=TASK_IDS))
    assert model.bank.statistics()["bytes"] <= 2 * one
    model.bank.limit_bytes = 0
    model.bank.clear()
    torch.testing.assert_close(run(model, task="a"), expected["a"])
    assert model.bank.statistics()["tasks"] == 0


def test_training_and_gradients_bypass_it(model):
    model.train()
    run(model, task="a")
    model.eval()
    model(**make_batch(), task="a").loss.backward()
    assert model.task_embedding.weight.grad is not None
    assert counts(model) == (0, 0)
    run(model, task="a")
    model.train()
    assert model.bank.statistics()["tasks"] == 0


def test_inference_mode(model):
    expected = run(model, task="a")
    with torch.inference_mode():
        torch.testing.assert_close(run(model, task="b c"), without_bank(model, task="b c"))
    torch.testing.assert_close(run(model, task="b c"), without_bank(model, task="b c"))
    assert torch.equal(run(model, task="a"), expected)
    assert counts(model) == (2, 0)


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_threads_share_it(model, limit):
    expected = {task: without_bank(model, task=task) for task in TASKS}
    batch, wrong = make_batch(), []
    model.bank.limit_bytes = limit

    def work(task):
        with torch.no_grad():
            for _ in range(5):
                if not torch.allclose(model(**batch, task=task).logits, expected[task]):
                    wrong.append(task)

    threads = [threading.Thread(target=work, args=(task,)) for task in TASKS * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert counts(model)[0] == (3 if limit else 6 * 5)


def test_what_comes_back_from_host_memory_is_the_same_to_the_bit(model):
    expected = {task: run(model, task=task) for task in TASKS}
    mixed = run(model, task_ids=TASK_IDS)
    model.bank.clear()
    run(model, task="a")
    model.bank.limit_bytes, model.bank.host_limit_bytes = model.bank.statistics()["bytes"], 1 << 30
    for task in TASKS * 2:
        assert torch.equal(run(model, task=task), expected[task])
    assert torch.equal(run(model, task_ids=TASK_IDS), mixed)
    found = model.bank.statistics()
    assert (found["tasks"], found["host_tasks"], found["evicted"]) == (1, 2, 0)
    assert found["generated"] == 6 and found["fetched"] == 5  # once more each since all were forgotten


def test_copies_start_empty(model):
    run(model, task="a")
    model.bank.limit_bytes, model.bank.host_limit_bytes = 1 << 20, 1 << 21
    copied = copy.deepcopy(model)
    assert copied.bank.statistics()["tasks"] == 0
    assert (copied.bank.limit_bytes, copied.bank.host_limit_bytes) == (1 << 20, 1 << 21)


@pytest.mark.parametrize("generator", ["hypernetwork", "table"])
def test_weights_of(generator):
    model = make_model(generator=generator)
    weights = model.weights_of("b c")
    down_weight, *rest = weights["decoder", 1, "feed_forward"]
    assert down_weight.shape == (4, 16)
    assert len(rest) == 5
    assert model.weights_of("b c")["decoder", 1, "feed_forward"][0] is down_weight
    with pytest.raises(ValueError, match="task must be one of"):
        model.weights_of("d")
    model.train()
    with pytest.raises(RuntimeError, match=r"the weight bank serves a model in evaluation mode: call model.eval\(\)"):
        model.weights_of("b c")


def test_statistics_of_the_process(model):
    before = process_statistics()
    run(model, task="a")
    after = process_statistics()
    assert after["generated"] == before["generated"] + 1
    assert after["banks"] >= 1


def test_a_lower_limit_takes_effect_at_once(model):
    for task in TASKS:
        run(model, task=task)
    one = model.bank.statistics()["bytes"] // 3
    model.bank.limit_bytes = one
    assert model.bank.statistics()["tasks"] == 1
    assert model.bank.statistics()["bytes"] == one
    run(model, task=TASKS[-1])
    assert counts(model) == (3, 0)  # the task used last was kept
    model.bank.limit_bytes = 0
    assert model.bank.statistics()["bytes"] == 0


def test_a_mixed_batch_is_copied_together_once(model, monkeypatch):
    for task in TASKS:
        run(model, task=task)
    joined = []
    join = bank.join
    monkeypatch.setattr(bank, "join", lambda found: joined.append(len(found)) or join(found))
    expected = without_bank(model, task_ids=TASK_IDS)
    for _ in range(3):
        torch.testing.assert_close(run(model, task_ids=TASK_IDS), expected)
        for task in TASKS:
            torch.testing.assert_close(run(model, task=task), without_bank(model, task=task))
    assert joined == [3]
    assert counts(model) == (3, 0)


def test_a_miss_at_the_limit_copies_nothing(model, monkeypatch):
    run(model, task="a")
    model.bank.limit_bytes = 2 * model.bank.statistics()["bytes"]
    monkeypatch.setattr(bank, "join", lambda found: pytest.fail("copied"))
    for task in TASKS * 2:
        torch.testing.assert_close(run(model, task=task), without_bank(model, task=task))
    assert model.bank.statistics()["tasks"] == 2


def test_weights_of_which_a_part_is_out_of_date_make_room(model):
    run(model, task_ids=TASK_IDS)  # all three side by side
    every = model.bank.statistics()["bytes"]
    model.bank.limit_bytes = every
    with torch.no_grad():
        model.task_embedding.weight[1].add_(1)
    for task in ("b c", "a", "ü.weight", "b c"):
        torch.testing.assert_close(run(model, task=task), without_bank(model, task=task))
        assert model.bank.statistics()["bytes"] <= every
    torch.testing.assert_close(run(model, task_ids=TASK_IDS), without_bank(model, task_ids=TASK_IDS))


@pytest.mark.parametrize("limit", [0.5, 1, 2.5, 3, 10])
def test_any_order_of_tasks_at_any_limit(model, limit):
    """Random batches, single and mixed, while embeddings change: never stale, never beyond the limit."""
    run(model, task="a")
    model.bank.limit_bytes = int(limit * model.bank.statistics()["bytes"])
    generator = torch.Generator().manual_seed(0)
    for step in range(12):
        selected = torch.randint(3, (5,), generator=generator)
        if step % 4 == 3:
            with torch.no_grad():
                model.task_embedding.weight[selected[0]].add_(0.1)
        selected = {"task_ids": selected} if step % 2 else {"task": TASKS[selected[0]]}
        torch.testing.assert_close(run(model, **selected), without_bank(model, **selected))
        assert model.bank.statistics()["bytes"] <= model.bank.limit_bytes


def test_moving_the_model_empties_it(model):
    run(model, task="a")
    model.float()
    assert model.bank.statistics()["tasks"] == 0


def test_what_inference_mode_generated_serves_outside_of_it(model):
    with torch.inference_mode():
        run(model, task="a")
        weights = model.weights_of("b c")
    assert not any(tensor.is_inference() for tensors in weights.values() for tensor in tensors)
    torch.testing.assert_close(run(model, task="a"), without_bank(model, task="a"))
