"""The weight bank by itself: what it holds, forgets and copies."""

import pytest
import torch

from hyperloader.nn import bank as module
from hyperloader.nn.bank import Sources, WeightBank

TASK_BYTES = 16  # of the only site's four numbers


class Bank:
    """A bank over tasks whose weights are four times their number, and what it was asked to make and to copy."""

    def __init__(self, monkeypatch, limit, host_limit=0):
        self.bank, self.made, self.copied = WeightBank(limit * TASK_BYTES, host_limit * TASK_BYTES), [], 0
        self.source = [torch.zeros(1)]
        join = module.join

        def counted(found):
            self.copied += len(found)
            return join(found)

        monkeypatch.setattr(module, "join", counted)

    def get(self, *tasks):
        sources = Sources(torch.float32, self.source, own=[], rows=lambda: torch.zeros(1000, 1))
        stacked = self.bank.get(tasks, sources, make=self._make)
        weights = stacked.sites["encoder", 0, "query"][0]
        for task in tasks:
            assert weights[stacked.slots_of(torch.tensor([task]))[0]].tolist() == [task] * 4
            assert stacked.of(task)["encoder", 0, "query"][0].tolist() == [task] * 4
        held = {id(stacked): stacked.num_bytes for stacked in self.bank._held.values()}
        found = self.bank.statistics()
        assert found["bytes"] == sum(held.values()) <= self.bank.limit_bytes
        assert found["host_bytes"] == found["host_tasks"] * TASK_BYTES <= self.bank.host_limit_bytes
        assert not set(self.bank._held) & set(self.bank._host.tasks())

    def _make(self, tasks):
        self.made += tasks
        return {("encoder", 0, "query"): (torch.tensor(tasks).float()[:, None].repeat(1, 4),)}


def test_the_least_recently_used_goes(monkeypatch):
    bank = Bank(monkeypatch, 3)
    for task in (0, 1, 2, 0, 3, 0, 2, 1):
        bank.get(task)
    assert bank.made == [0, 1, 2, 3, 1]
    assert bank.copied == 0


def test_what_goes_is_kept_in_host_memory_and_comes_back(monkeypatch):
    bank = Bank(monkeypatch, 2, host_limit=2)
    for task in (0, 1, 2, 3, 0, 4, 5, 1):  # 1 went from the device to the host, and from there, before it is met again
        bank.get(task)
    assert bank.made == [0, 1, 2, 3, 4, 5, 1]
    found = bank.bank.statistics()
    assert (found["fetched"], found["moved"], found["evicted"], found["served"]) == (1, 6, 3, 1)
    assert (found["tasks"], found["host_tasks"]) == (2, 2)
    bank.bank.host_limit_bytes = TASK_BYTES
    assert bank.bank.statistics()["host_tasks"] == 1 and bank.bank.statistics()["evicted"] == 4


def test_a_batch_of_both_tiers_and_none(monkeypatch):
    bank = Bank(monkeypatch, 3, host_limit=9)
    bank.get(0, 1, 2)
    bank.get(3)
    bank.get(0, 3, 4)
    assert bank.made == [0, 1, 2, 3, 4]
    bank.get(0, 1, 2, 3, 4)  # too many for the device: what is on the host stays there
    bank.get(1)
    bank.get(2)
    assert bank.made == [0, 1, 2, 3, 4]
    bank.source[0].add_(1)
    bank.get(2)
    found = bank.bank.statistics()
    assert bank.made[5:] == [2] and (found["host_tasks"], found["dropped"]) == (0, 5)


def test_the_host_s_copy_is_its_own(monkeypatch):
    bank = Bank(monkeypatch, 1, host_limit=9)
    bank.get(0)
    (stacked,) = bank.bank._held.values()
    bank.get(1)
    (row,) = bank.bank._host.rows_of([0]).values()
    memory = {tensor.untyped_storage().data_ptr() for one in stacked.sites.values() for tensor in one}
    assert row.untyped_storage().data_ptr() not in memory and row.untyped_storage().nbytes() == TASK_BYTES


def test_slots_are_as_many_as_tasks(monkeypatch):
    bank = Bank(monkeypatch, 10)
    bank.get(999, 3, 500)
    (stacked,) = set(bank.bank._held.values())
    assert stacked.slots_of(torch.tensor([500, 999, 3, 500])).tolist() == [2, 0, 1, 2]
    assert all(tensor.numel() == 3 for tensor in stacked._sorted)


def test_a_batch_beyond_the_limit_is_made_and_not_kept(monkeypatch):
    bank = Bank(monkeypatch, 2)
    bank.get(0)
    bank.get(0, 1, 2)
    bank.get(0)
    bank.get(1)
    assert bank.made == [0, 1, 2, 1]


def test_compaction_while_a_batch_needs_an_old_task(monkeypatch):
    bank = Bank(monkeypatch, 4)
    bank.get(0, 1, 2, 3)  # side by side, which cannot be freed in part
    bank.get(0, 4)
    bank.get(0)
    bank.get(4)
    assert bank.made == [0, 1, 2, 3, 4]


def test_misses_at_the_limit_copy_little(monkeypatch):
    """As many tasks again as one stack holds: not a copy of everything for each."""
    bank = Bank(monkeypatch, 64)
    bank.get(*range(64))
    for task in range(64, 128):
        bank.get(task)
    assert bank.bank.statistics()["tasks"] > 32
    assert bank.copied <= 64


def test_mixed_batches_end_in_one_stack(monkeypatch):
    bank = Bank(monkeypatch, 100)
    for task in range(32):
        bank.get(task)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        bank.get(*torch.randperm(32, generator=generator)[:8].tolist())
    assert bank.copied <= 3 * 32


@pytest.mark.parametrize("limit", [0, 1, 3, 7, 20])
@pytest.mark.parametrize("host_limit", [0, 4, float("inf")])
def test_any_batches(monkeypatch, limit, host_limit):
    bank = Bank(monkeypatch, limit, host_limit)
    generator = torch.Generator().manual_seed(limit)
    for step in range(300):
        size = int(torch.randint(1, 6, (), generator=generator))
        bank.get(*torch.randperm(12, generator=generator)[:size].tolist())
        if step % 50 == 49:
            bank.bank.limit_bytes = TASK_BYTES * int(torch.randint(0, 13, (), generator=generator))
            assert bank.bank.statistics()["bytes"] <= bank.bank.limit_bytes
    assert bank.bank.statistics()["generated"] == len(bank.made)


def test_a_failure_counts_nothing_and_leaves_the_rest(monkeypatch):
    bank = Bank(monkeypatch, 4)
    bank.get(0)
    make, bank._make = bank._make, lambda tasks: 1 / 0
    with pytest.raises(ZeroDivisionError):
        bank.get(0, 1)
    assert bank.bank.statistics()["generated"] == 1
    bank._make = make
    bank.get(0, 1)
    assert bank.made == [0, 1]


def test_use_in_a_batch_that_does_not_fit_is_use(monkeypatch):
    bank = Bank(monkeypatch, 3)
    for task in (0, 1, 2):
        bank.get(task)
    bank.get(0, 3, 4, 5)
    bank.get(6)
    bank.get(0)
    assert bank.made == [0, 1, 2, 3, 4, 5, 6]


def test_rows_of_another_dtype_are_others(monkeypatch):
    bank, own = WeightBank(), [torch.zeros(1)]
    shared, make = [torch.zeros(1)], Bank(monkeypatch, 1)._make
    for number, rows in enumerate((torch.zeros(3, 1), torch.zeros(3, 1), torch.zeros(3, 1).half())):
        own[0].add_(number)
        bank.get([1], Sources(torch.float32, shared, own, lambda rows=rows: rows), make)
    assert bank.statistics()["generated"] == 2


def test_a_limit_is_a_number_of_bytes():
    for make in (WeightBank, lambda limit: setattr(WeightBank(), "limit_bytes", limit)):
        with pytest.raises(ValueError, match="limit_bytes must be at least 0, got -1"):
            make(-1)
        with pytest.raises(TypeError, match="limit_bytes must be a number, got '1 GiB'"):
            make("1 GiB")
    with pytest.raises(ValueError, match="host_limit_bytes must be at least 0, got -1"):
        WeightBank(host_limit_bytes=-1)
    with pytest.raises(TypeError, match="host_limit_bytes must be a number, got True"):
        WeightBank().host_limit_bytes = True
