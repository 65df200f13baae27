import copy
import math

import pytest
import torch

from hyperloader.nn.heads import TaskHeads
from hyperloader.training.optimizer import TransformersAdamW, make_optimizer
from hyperloader.training.presets import PRESETS, TrainingOptions, training_options

RATES = [0.0, 1e-3, 3e-2, 1e-2, 1e-4]


def formula(values, gradients, rates, eps, weight_decay, betas=(0.9, 0.999)):
    """Every update of one number after the other, as plain float64 arithmetic."""
    found = []
    for value, of_value in zip(values, zip(*gradients, strict=True), strict=True):
        mean = square = 0.0
        path = []
        for step, (rate, gradient) in enumerate(zip(rates, of_value, strict=True), 1):
            mean = betas[0] * mean + (1 - betas[0]) * gradient
            square = betas[1] * square + (1 - betas[1]) * gradient**2
            size = rate * math.sqrt(1 - betas[1] ** step) / (1 - betas[0] ** step)
            value -= size * mean / (math.sqrt(square) + eps)
            value -= rate * weight_decay * value
            path.append(value)
        found.append(path)
    return torch.tensor(found, dtype=torch.float64).T


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("eps", [1e-8, 1e-2])
@pytest.mark.parametrize("size", [1.0, 1e-7])
def test_follows_the_formula_step_by_step(weight_decay, eps, size):
    values = torch.randn(7, dtype=torch.float64)
    gradients = size * torch.randn(len(RATES), 7, dtype=torch.float64)
    expected = formula(values.tolist(), gradients.tolist(), RATES, eps, weight_decay)
    parameter = torch.nn.Parameter(values.clone())
    optimizer = TransformersAdamW([parameter], eps=eps, weight_decay=weight_decay)
    for rate, gradient, wanted in zip(RATES, gradients, expected, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = gradient.clone()
        optimizer.step()
        torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-12, atol=1e-15)


def test_small_gradients_move_less_than_with_pytorchs():
    """At the first update epsilon is 3.16e-7 in effect, and 1e-8 with PyTorch's AdamW."""
    moved = {}
    for kind in (TransformersAdamW, torch.optim.AdamW):
        parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        parameter.grad = torch.full_like(parameter, 1e-7)
        kind([parameter], lr=1.0, weight_decay=0.0).step()
        moved[kind] = -parameter.item()
    assert moved[TransformersAdamW] == pytest.approx(1 / (1 + math.sqrt(10)), rel=1e-9)
    assert moved[torch.optim.AdamW] == pytest.approx(1 / 1.1, rel=1e-9)


def test_a_parameter_without_a_gradient_stays_and_counts_no_step():
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = TransformersAdamW([first, second], lr=0.1, weight_decay=0.5)
    first.grad = torch.ones(2)
    optimizer.step()
    assert second.tolist() == [1, 1] and second not in optimizer.state
    assert first.tolist() != [1, 1]


def test_a_restored_state_goes_on_to_the_bit():
    gradients = torch.randn(6, 5)

    def updates(parameter, optimizer, some):
        for gradient in some:
            parameter.grad = gradient.clone()
            optimizer.step()

    whole = torch.nn.Parameter(torch.ones(5))
    one = TransformersAdamW([whole], lr=0.1)
    updates(whole, one, gradients[:3])
    half = torch.nn.Parameter(whole.detach().clone())
    other = TransformersAdamW([half], lr=0.7)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    updates(whole, one, gradients[3:])
    updates(half, other, gradients[3:])
    assert torch.equal(half, whole)


def test_the_state_of_pytorchs_adamw_is_refused():
    parameter = torch.nn.Parameter(torch.ones(5))
    state = torch.optim.AdamW([parameter]).state_dict()
    with pytest.raises(ValueError, match="state_dict must be of transformers' AdamW, got one of torch.optim.AdamW"):
        TransformersAdamW([parameter]).load_state_dict(state)


@pytest.mark.parametrize(
    "values", [{"lr": -1.0}, {"lr": math.nan}, {"eps": -1e-8}, {"weight_decay": -0.1}, {"betas": (0.9, 1.0)}]
)
def test_bad_values_are_refused_by_name(values):
    with pytest.raises(ValueError, match=f"^{next(iter(values))} must be "):
        TransformersAdamW([torch.nn.Parameter(torch.ones(1))], **values)


LABELS = {"colours": ["O", "B-colour", "I-colour"], "places": ["O", "B-place"]}


class Classifier(torch.nn.Module):
    """A layer and the heads on it."""

    def __init__(self, hidden):
        super().__init__()
        self.layer, self.heads = torch.nn.Linear(hidden, hidden), TaskHeads(hidden, LABELS)

    def step(self, options):
        """How far every parameter moves in the first update, and the groups of its optimizer."""
        optimizer = make_optimizer(self, options)
        for parameter in self.parameters():
            parameter.grad = torch.ones_like(parameter)
        before = {name: parameter.detach().clone() for name, parameter in self.named_parameters()}
        optimizer.step()
        moved = {name: before[name] - parameter.detach() for name, parameter in self.named_parameters()}
        return moved, optimizer.param_groups


@pytest.mark.parametrize("hidden", [32, 128, 768])
@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_hf"])
def test_a_logit_moves_alike_at_any_width(hidden, optimizer):
    options = TrainingOptions(learning_rate=1e-3, optimizer=optimizer)
    moved, groups = Classifier(hidden).step(options)
    for task in range(2):
        logits = moved[f"heads.heads.{task}.weight"] @ torch.ones(hidden)
        torch.testing.assert_close(logits, torch.full_like(logits, 0.96), rtol=1e-4, atol=0)
    for name in ("layer.weight", "layer.bias"):
        torch.testing.assert_close(moved[name], torch.full_like(moved[name], 1e-3), rtol=2e-3, atol=0)
    assert [group["lr"] for group in groups] == [1e-3, 1e-3, 0.96 / hidden, 0.96 / hidden]
    assert [len(group["params"]) for group in groups] == [1, 1, 2, 2]


def test_the_heads_of_lora_have_its_rate_at_the_width_that_it_was_chosen_at():
    options = training_options("default", "lora")
    for hidden, rate in ((384, 1e-2), (128, 3e-2)):
        groups = make_optimizer(Classifier(hidden), options).param_groups
        assert [group["lr"] for group in groups] == [1e-2, 1e-2, rate, rate]


@pytest.mark.parametrize("options", [TrainingOptions(head_base_width=0), PRESETS["published"]])
def test_one_rate_for_all(options):
    """As in runs of before, whose optimizers have these two groups."""
    model = Classifier(16)
    groups = make_optimizer(model, options).param_groups
    assert [group["lr"] for group in groups] == [options.learning_rate] * 2
    assert {id(one) for group in groups for one in group["params"]} == {id(one) for one in model.parameters()}
