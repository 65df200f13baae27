"""What `hyperloader predict` writes, a file of columns for it, and when two answers are the same."""

import json

import pytest

COLUMNS = "play S-x\nit O\n\nstop U-y\n"


def answers(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def alike(one, other):
    """Whether two answers are the same but for the last digit of scores."""
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == pytest.approx(other, rel=1e-4, abs=2e-4) if isinstance(one, float) else one == other
