"""LongList: nn.ModuleList, whose state loads in linear time."""

import copy

import pytest
import torch
from helpers.lines import lines_of
from torch import nn

from hyperloader.nn.long_list import LongList


def nested(kind, count=3):
    part = nn.Module()
    part.list = kind(nn.Linear(2, 1 + number % 2) for number in range(count))
    part.other = nn.Linear(1, 1)
    return part


def loaded(kind, change, **options):
    """What loading says, and the state behind it."""
    torch.manual_seed(0)
    state, part = nested(kind).state_dict(), nested(kind)
    change(state)
    before = dict(state)
    try:
        keys = part.load_state_dict(state, **options)
        said = sorted(keys.missing_keys), sorted(keys.unexpected_keys)
    except RuntimeError as error:
        said = str(error)
    assert state == before, "the caller's state stays as it is"
    return said, part.state_dict()


@pytest.mark.parametrize("options", [{}, {"strict": False}, {"assign": True}], ids=str)
@pytest.mark.parametrize(
    "change",
    [
        lambda state: None,
        lambda state: state.pop("list.1.bias"),
        lambda state: state.pop("other.bias"),
        lambda state: state.update({"list.7.weight": torch.ones(1)}),
        lambda state: state.update({"list.1.more": torch.ones(1)}),
        lambda state: state.update({"list.1.weight": torch.ones(5, 2)}),
        lambda state: state.update({"list.1.weight": "no tensor"}),
        lambda state: state.update({"list.1.weight": torch.ones(2, 2).double()}),
    ],
    ids=["all", "missing", "missing beside it", "too many", "more in one", "shape", "type", "dtype"],
)
def test_everything_is_as_in_a_list_of_pytorch(change, options):
    (said, state), (expected, expected_state) = (loaded(kind, change, **options) for kind in (LongList, nn.ModuleList))
    assert said == expected
    assert state.keys() == expected_state.keys()
    assert all(torch.equal(tensor, expected_state[name]) for name, tensor in state.items())
    assert all(tensor.dtype == expected_state[name].dtype for name, tensor in state.items())


def test_alone_copied_and_twice():
    part = copy.deepcopy(nested(LongList).list)
    state = {name: torch.full_like(tensor, 3) for name, tensor in part.state_dict().items()}
    for given in (state, {name: tensor + 1 for name, tensor in state.items()}):
        assert not any(part.load_state_dict(given))
        assert all(torch.equal(tensor, given[name]) for name, tensor in part.state_dict().items())
    assert part.load_state_dict({}, strict=False).missing_keys == list(state)


def test_the_time_is_linear():
    few, many = (nested(LongList, count) for count in (50, 400))
    few.load_state_dict(few.state_dict())
    found = [lines_of(part.load_state_dict, part.state_dict()) for part in (few, many)]
    assert found[1] < 9 * found[0]
