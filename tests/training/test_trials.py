"""Optuna's journal of a search, and what comes next."""

import os

import pytest

from hyperloader.training.search_space import search_space

pytest.importorskip("optuna", reason="Optuna is not installed")

from hyperloader.training.trials import JOURNAL, Journal, Trial, next_values

RECIPE = {"over": ["model.rank", "training.learning_rate"], "method": "hyperloader"}
RATES, RANKS = [0.001 * number for number in range(1, 9)], [2, 4, 8, 16]


@pytest.fixture
def space(settings):
    return search_space(settings(), {"training.learning_rate": RATES, "model.rank": RANKS})


def score_of(values) -> float | None:
    """Best at 0.005 and 8; the largest rate fails."""
    rate, rank = values["training.learning_rate"], values["model.rank"]
    return None if rate == RATES[-1] else 1 - 100 * abs(rate - 0.005) - 0.01 * abs(rank - 8)


def ended(space, values) -> Trial:
    score = score_of(values)
    return Trial(values, space.name(values), score, "it failed" if score is None else None, 1, 2, 0.5, {"mean_f1": 1.0})


def searched(space, journal, count, most=100) -> list[Trial]:
    while len(journal.trials()) < most and (values := next_values(space, journal.trials(), count)) is not None:
        journal.add(ended(space, values), space)
    return journal.trials()


def test_optuna_tries_no_combination_twice_and_finds_the_best(space, tmp_path):
    found = searched(space, Journal(tmp_path, RECIPE), 20)
    names = [trial.name for trial in found]
    assert len(set(names)) == len(names) == 20
    assert "rank=8,learning_rate=0.005" in names
    assert names[:8] != [space.name(values) for values in space.combinations()][:8]
    of_rate = [trial.values["training.learning_rate"] for trial in found[10:]]  # the first ten are drawn blindly
    assert sum(0.003 <= rate <= 0.007 for rate in of_rate) >= 8


def test_another_process_goes_on_with_the_same_choices(space, tmp_path):
    for name in ("at-once", "killed"):
        (tmp_path / name).mkdir()
    expected = searched(space, Journal(tmp_path / "at-once", RECIPE), 14)
    for most in range(1, 15):
        journal = tmp_path / "killed" / JOURNAL
        if most == 5:
            journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "torn')
            os.symlink(journal, f"{journal}.lock")
        searched(space, Journal(journal.parent, RECIPE), 14, most)
    assert Journal(tmp_path / "killed", RECIPE).trials() == expected
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == [JOURNAL]


def test_the_seed_of_the_run_is_that_of_the_choices(settings, space):
    other = search_space(settings(seed=1), space.over)
    assert next_values(space, [], 5) == next_values(space, [], 5) != next_values(other, [], 5)


def test_all_combinations_and_then_others(settings, tmp_path):
    few = search_space(settings(), {"training.learning_rate": RATES[:2], "model.rank": RANKS[:2]})
    journal = Journal(tmp_path, RECIPE)
    assert [dict(trial.values) for trial in searched(few, journal, 4)] == list(few.combinations())
    more = search_space(settings(), {"model.rank": RANKS[:3], "training.learning_rate": RATES[1:3]})
    found = searched(more, journal, more.size)
    assert len(found) == 4 + 4
    assert {trial.name for trial in found} >= {more.name(values) for values in more.combinations()}


def test_all_but_one_of_the_combinations(settings, tmp_path):
    few = search_space(settings(), {"model.rank": RANKS, "training.learning_rate": RATES[:2]})
    assert len({trial.name for trial in searched(few, Journal(tmp_path, RECIPE), few.size - 1)}) == 7


def test_another_search_and_a_damaged_one_are_refused(space, tmp_path):
    searched(space, Journal(tmp_path, RECIPE), 1)
    with pytest.raises(ValueError, match=r"holds a search over model\.rank, training\.learning_rate, got seed; choose"):
        Journal(tmp_path, {**RECIPE, "over": ["seed"]})
    with pytest.raises(ValueError, match=r"differs in method \('hyperloader' there, 'full' here\); choose another"):
        Journal(tmp_path, {**RECIPE, "method": "full"})
    path = tmp_path / JOURNAL
    path.write_text(f"no JSON\n{path.read_text()}")
    with pytest.raises(ValueError, match=r"optuna\.journal: cannot be read \(.*choose another output"):
        Journal(tmp_path, RECIPE)


def test_a_search_of_before_the_rate_of_heads_had_one_for_all(tmp_path):
    Journal(tmp_path, RECIPE | {"training": {}})
    Journal(tmp_path, RECIPE | {"training": {"head_base_width": 0.0}})
    with pytest.raises(ValueError, match=r"another search, which differs in training.head_base_width \(0.0 there, 960"):
        Journal(tmp_path, RECIPE | {"training": {"head_base_width": 960.0}})


def test_a_search_of_before_rates_by_base_weights_had_that_of_the_method(tmp_path):
    recipe = RECIPE | {"preset": "default", "model": {"base_weights": False}}
    Journal(tmp_path, recipe | {"training": {}})
    Journal(tmp_path, recipe | {"training": {"learning_rate": 3e-3}})
    with pytest.raises(ValueError, match=r"differs in training.learning_rate \(0.003 there, 0.005 here\)"):
        Journal(tmp_path, recipe | {"training": {"learning_rate": 5e-3}})


def test_a_search_over_what_decides_options_is_gone_on_with(tmp_path):
    for _ in range(2):
        Journal(tmp_path, {"over": ["preset"], "method": "lora", "training": {"head_base_width": 384.0}})
