"""Which of what waits makes the next batch."""

import threading
import time
from types import SimpleNamespace

import pytest

from hyperloader.serving.waiting import Piece, WaitingRoom


def piece(length, task=0, model="one", dropped=False):
    example = SimpleNamespace(input_ids=(1,) * length, task_id=task)
    return Piece(example, SimpleNamespace(dropped=dropped), model)


def lengths(batch):
    return sorted(len(one.example.input_ids) for one in batch)


def test_the_oldest_is_in_the_next_batch_with_those_of_its_length():
    room = WaitingRoom(200, 0)
    room.put([piece(10), piece(100), piece(12), piece(90), *(piece(11) for _ in range(14))])
    assert lengths(room.take()) == [10, *[11] * 14, 12]
    assert lengths(room.take()) == [90, 100]


def test_a_batch_keeps_to_its_tokens_and_nothing_is_left_behind():
    room = WaitingRoom(64, 0)
    sent = [piece(1 + 7 * number % 40) for number in range(100)]
    room.put(sent)
    room.close()
    taken = []
    while (batch := room.take()) is not None:
        waiting = [one for one in sent if one not in taken]
        assert waiting[0] in batch
        assert len(batch) == 1 or len(batch) * max(lengths(batch)) <= 64
        taken += batch
    assert len(taken) == 100


@pytest.mark.parametrize("mixed", [True, False])
def test_tasks_share_batches_and_models_do_not(mixed):
    room = WaitingRoom(1000, 0, mixed)
    room.put([piece(5, task=number % 2, model="one" if number < 4 else "two") for number in range(8)])
    room.close()
    batches = []
    while (batch := room.take()) is not None:
        batches.append({(one.model, one.example.task_id) for one in batch})
    both = [{("one", 0), ("one", 1)}, {("two", 0), ("two", 1)}]
    alone = [{("one", 0)}, {("one", 1)}, {("two", 0)}, {("two", 1)}]
    assert batches == (both if mixed else alone)


def test_what_nobody_waits_for_is_not_computed():
    room = WaitingRoom(1000, 0)
    room.put([piece(5, dropped=True), piece(6), piece(7, dropped=True)])
    assert lengths(room.take()) == [6]
    room.put([piece(5, dropped=True)])
    room.close()
    assert room.take() is None


def test_it_waits_for_others_until_the_deadline_or_a_full_batch():
    room = WaitingRoom(10, 0.2)
    room.put([piece(4)])
    start = time.monotonic()
    assert lengths(room.take()) == [4]
    assert time.monotonic() - start >= 0.15
    room = WaitingRoom(10, 30)
    threading.Timer(0.05, room.put, ([piece(4), piece(4)],)).start()
    room.put([piece(4)])
    assert len(room.take()) == 2  # at once: full
