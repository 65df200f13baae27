import itertools
from collections import Counter

import numpy as np
import pytest

from hyperloader.data import MultiTaskBatches

SIZES = [5, 100, 3000, 40]


@pytest.mark.parametrize("mode", ["mixed", "single"])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 10.0, float("inf")])
def test_tasks_are_drawn_with_their_probabilities(mode, temperature):
    steps, batch_size = 4000, 8
    sampler = MultiTaskBatches(SIZES, batch_size, steps, temperature=temperature, mode=mode)
    drawn = np.zeros(len(SIZES))
    for batch in sampler:
        tasks = [task for task, _ in batch]
        if mode == "single":
            assert len(set(tasks)) == 1
        drawn += np.bincount(tasks, minlength=len(SIZES))
    expected = np.array(SIZES, dtype=float) ** (1 / temperature)
    expected /= expected.sum()
    draws = steps * (batch_size if mode == "mixed" else 1)
    deviation = np.sqrt(expected * (1 - expected) / draws)
    assert (abs(drawn / (steps * batch_size) - expected) < 5 * deviation).all()
    assert np.allclose(sampler.probabilities, expected)


def test_a_mixed_batch_mixes_and_draws_are_independent_of_their_place():
    batches = list(MultiTaskBatches([100, 100], 16, 500))
    assert all(len({task for task, _ in batch}) == 2 for batch in batches[:50])
    first = sum(batch[0][0] for batch in batches)
    assert 180 < first < 320


@pytest.mark.parametrize("mode", ["mixed", "single"])
def test_no_sentence_repeats_inside_an_epoch_and_epochs_differ(mode):
    seen = [[] for _ in SIZES]
    for batch in MultiTaskBatches(SIZES, 7, 1500, mode=mode, seed=3):
        for task, index in batch:
            seen[task].append(index)
    for size, indices in zip(SIZES, seen, strict=True):
        for start in range(0, len(indices), size):
            epoch = indices[start : start + size]
            assert len(set(epoch)) == len(epoch)
            if len(epoch) == size:
                assert sorted(epoch) == list(range(size))
        if len(indices) >= 2 * size and size > 5:
            assert indices[:size] != indices[size : 2 * size]
            assert indices[:size] != sorted(indices[:size])


@pytest.mark.parametrize("mode", ["mixed", "single"])
@pytest.mark.parametrize("start", [0, 1, 255, 256, 257, 700, 1023])
def test_a_resumed_run_goes_on_with_the_same_batches(mode, start):
    whole = list(MultiTaskBatches(SIZES, 6, 1024, mode=mode, seed=11))
    resumed = MultiTaskBatches(SIZES, 6, 1024, mode=mode, seed=11, start_step=start)
    assert len(resumed) == 1024 - start
    assert list(resumed) == whole[start:]


def test_a_batch_depends_on_seed_and_step_alone():
    whole = list(MultiTaskBatches(SIZES, 6, 600, seed=1))
    sampler = MultiTaskBatches(SIZES, 6, 10_000, seed=1)
    assert [sampler.batch(step) for step in (599, 0, 300, 3)] == [whole[step] for step in (599, 0, 300, 3)]
    assert list(MultiTaskBatches(SIZES, 6, 600, seed=2)) != whole
    assert list(sampler)[:600] == list(sampler)[:600] == whole


@pytest.mark.parametrize("mode", ["mixed", "single"])
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_part_the_batch_of_one(mode, processes):
    whole = list(MultiTaskBatches(SIZES, 12, 300, mode=mode))
    parts = [
        list(MultiTaskBatches(SIZES, 12, 300, mode=mode, process_index=index, num_processes=processes))
        for index in range(processes)
    ]
    for step, batch in enumerate(whole):
        assert {len(part[step]) for part in parts} == {12 // processes}
        assert [pair for part in parts for pair in part[step]] == batch
        large = Counter(pair for part in parts for pair in part[step] if pair[0] == 2)
        assert max(large.values(), default=1) == 1


def test_the_batches_never_change_between_versions():
    assert MultiTaskBatches([3, 50], 4, 1000, seed=5).batch(700) == [(1, 32), (1, 49), (1, 21), (0, 0)]
    of_updates = MultiTaskBatches([3, 50], 4, 1000, mode="single", batches_per_task=3, replacement=True, seed=5)
    assert of_updates.batch(700) == [(0, 1), (0, 0), (0, 0), (0, 2)]


@pytest.mark.parametrize("accumulation", [2, 3, 4])
@pytest.mark.parametrize("processes", [1, 2])
def test_all_batches_of_an_update_hold_one_task_on_all_processes(accumulation, processes):
    parts = [
        MultiTaskBatches(
            SIZES,
            8,
            300 * accumulation,
            mode="single",
            batches_per_task=accumulation,
            replacement=True,
            process_index=index,
            num_processes=processes,
        )
        for index in range(processes)
    ]
    steps = range(300 * accumulation)
    tasks = [{task for part in parts for task, _ in part.batch(step)} for step in steps]
    updates = [set().union(*tasks[start : start + accumulation]) for start in steps[::accumulation]]
    assert all(len(update) == 1 for update in updates)
    drawn = np.bincount([task for (task,) in updates], minlength=len(SIZES))
    deviation = np.sqrt(300 * parts[0].probabilities * (1 - parts[0].probabilities))
    assert (abs(drawn - 300 * parts[0].probabilities) < 4 * deviation).all()


@pytest.mark.parametrize("mode", ["mixed", "single"])
def test_with_replacement_every_sentence_is_drawn_alike_and_independently(mode):
    sampler = MultiTaskBatches([10, 1], 20, 2000, mode=mode, replacement=True, temperature=1.0)
    drawn = [index for batch in sampler for task, index in batch if task == 0]
    counts = np.bincount(drawn, minlength=10)
    assert len(counts) == 10
    assert (abs(counts - len(drawn) / 10) < 5 * np.sqrt(len(drawn) * 0.09)).all()
    twice = np.mean([first == second for first, second in itertools.pairwise(drawn)])
    assert 0.09 < twice < 0.11  # in shuffled epochs of ten sentences: 0.01


@pytest.mark.parametrize("start", [0, 1, 256, 700])
def test_updates_of_one_task_with_replacement_resume_and_part(start):
    options = {"mode": "single", "batches_per_task": 3, "replacement": True, "seed": 4}
    whole = list(MultiTaskBatches(SIZES, 6, 1024, **options))
    assert list(MultiTaskBatches(SIZES, 6, 1024, start_step=start, **options)) == whole[start:]
    parts = [list(MultiTaskBatches(SIZES, 6, 1024, process_index=i, num_processes=2, **options)) for i in range(2)]
    assert [one + other for one, other in zip(*parts, strict=True)] == whole


def test_a_run_without_steps():
    assert list(MultiTaskBatches([3], 2, 0)) == []
    assert list(MultiTaskBatches([3], 2, 5, start_step=5)) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": []}, "sizes must name at least one task, got none"),
        ({"sizes": [3, 0]}, r"sizes\[1\] must be a whole number of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number"),
        ({"steps": -1}, "steps must be a whole number of at least 0, got -1"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"temperature": 0}, "temperature must be above 0, got 0"),
        ({"temperature": float("nan")}, "temperature must be above 0, got nan"),
        ({"mode": "both"}, "mode must be 'mixed' or 'single', got 'both'"),
        ({"batches_per_task": 0}, "batches_per_task must be a whole number of at least 1, got 0"),
        ({"batches_per_task": 2}, "batches_per_task must be 1 in mode 'mixed', got 2"),
        ({"replacement": 1}, "replacement must be True or False, got 1"),
        ({"start_step": 11}, "start_step must be at most 10, got 11"),
        ({"process_index": 2, "num_processes": 2}, "process_index must be at most 1, got 2"),
        ({"num_processes": 3}, r"batch_size must be divisible by num_processes \(3\), got 4"),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        MultiTaskBatches(**({"sizes": [3, 4], "batch_size": 4, "steps": 10} | changes))


def test_a_step_outside_the_run_is_refused():
    with pytest.raises(ValueError, match="step must be at most 9, got 10"):
        MultiTaskBatches([3], 2, 10).batch(10)


LENGTHS = [[(7 * i + task) % (10 + 30 * task) + 1 for i in range(size)] for task, size in enumerate([50, 80, 30])]


def bucketed(**options):
    arguments = {"temperature": 2.0, "seed": 3, "lengths": LENGTHS} | options
    return MultiTaskBatches([50, 80, 30], 8, 64, **arguments)


def test_buckets_hold_the_examples_that_were_drawn():
    plain, sorted_by_length = bucketed(lengths=None), bucketed(bucket=16)
    for start in range(0, 64, 16):
        steps = range(start, start + 16)
        drawn = sorted(example for step in steps for example in plain.batch(step))
        assert sorted(example for step in steps for example in sorted_by_length.batch(step)) == drawn


def test_buckets_leave_little_padding():
    def padding(batches):
        lengths = [[LENGTHS[task][index] for task, index in batch] for batch in batches]
        return 1 - sum(map(sum, lengths)) / sum(len(batch) * max(batch) for batch in lengths)

    assert padding(bucketed(bucket=16)) < 0.1 < 0.4 < padding(bucketed(lengths=None))


def test_buckets_come_in_no_order_of_length():
    longest = [max(LENGTHS[task][index] for task, index in batch) for batch in bucketed(bucket=64)]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_buckets_resume_and_part_like_plain_batches():
    whole = list(bucketed())
    assert list(bucketed(start_step=13)) == whole[13:]
    parts = [list(bucketed(process_index=i, num_processes=2)) for i in range(2)]
    assert [one + other for one, other in zip(*parts, strict=True)] == whole


def test_single_task_batches_are_not_sorted():
    assert list(bucketed(mode="single")) == list(bucketed(mode="single", lengths=None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bucket": 3}, "bucket must be a divisor of 256, got 3"),
        ({"bucket": 0}, "bucket must be a whole number of at least 1, got 0"),
        ({"lengths": [[1]]}, r"lengths must have \[50, 80, 30\] entries by task, got \[1\]"),
    ],
)
def test_rejects_wrong_buckets(options, message):
    with pytest.raises(ValueError, match=message):
        bucketed(**options)


@pytest.mark.forks
def test_workers_of_a_loader_change_nothing():
    """Batches are numbers until a loader's workers, however many, take what these say."""
    from torch.utils.data import DataLoader

    class Pairs:
        def __getitem__(self, pair):
            return pair

    batches = MultiTaskBatches([7, 40], 4, 12, seed=3)
    found = [
        list(DataLoader(Pairs(), batch_sampler=batches, num_workers=workers, collate_fn=list)) for workers in (0, 1, 3)
    ]
    assert found[0] == found[1] == found[2] == list(batches)
