"""The Triton adapter: tiles, groups and columns at which its kernels take another path."""

import pytest
import torch
from conftest import DEVICE
from helpers.cases import ACTIVATIONS, NORMS, adapter_inputs, lora_inputs
from helpers.on_triton import each_groups, needs_triton, to_device
from helpers.oracle import value_and_gradients
from helpers.pairs import adapter_pair, assert_accurate_where_columns_cancel, compare, lora_pair

from hyperloader import ops
from hyperloader.reference.groups import AdapterWeights

_launch = pytest.importorskip("hyperloader.kernels._launch")
_sums = pytest.importorskip("hyperloader.kernels._sums")
adapter = pytest.importorskip("hyperloader.kernels.adapter")
lora_linear = pytest.importorskip("hyperloader.kernels.lora_linear")

pytestmark = needs_triton


# batch, tokens, hidden, bottleneck: more tiles of tokens than processors, so that weights are summed up first; hidden
# units beyond a block and off its size, and beyond a part of their sums; bottlenecks beyond a product's least size and
# beyond what is multiplied at once
@pytest.mark.parametrize(
    "size",
    [(3, 50, 70, 25), (2, 5, 150, 6), pytest.param((2, 90, 33, 70), marks=pytest.mark.slow), (1, 5, 20, 128)],
    ids=str,
)
@each_groups
@pytest.mark.parametrize("norm", NORMS)
def test_adapter(size, groups, norm):
    compare(*adapter_pair(to_device(adapter_inputs(*size, groups, norm, torch.float32)), norm=norm))


# In half precision programs keep their weights and walk over tiles, also of several groups; not with an inner norm,
# more than 768 hidden units, a wide bottleneck, or more than 384 hidden units beside more than 32 of the bottleneck.
@pytest.mark.parametrize(
    ("size", "groups", "norm", "walks"),
    [((7, 70, 150, 25), 4, "post", True), ((1, 3, 150, 6), None, "none", True), ((1, 300, 40, 40), None, "post", True),
     ((2, 40, 650, 20), 3, "post", True), ((2, 5, 40, 6), 2, "both", False), ((2, 5, 40, 70), 2, "post", False),
     ((2, 5, 400, 33), None, "post", False), ((1, 3, 1540, 6), None, "post", False)],
    ids=str,
)  # fmt: skip
def test_adapter_in_half_precision(monkeypatch, size, groups, norm, walks):
    launched = record(monkeypatch)
    compare(*adapter_pair(to_device(adapter_inputs(*size, groups, norm, torch.float16)), norm=norm))
    if DEVICE == "cpu":  # a GPU may have less shared memory
        assert ("walk_kernel" in launched) == walks


@each_groups
def test_what_the_norm_reads_may_be_constant(groups):
    """Of an up projection that is zero: y is what the norm's eps makes of it, and no NaN."""
    inputs = adapter_inputs(3, 20, 150, 6, groups, "post", torch.float16)
    inputs["up_weight"].zero_()
    inputs["up_bias"].fill_(0.5)
    compare(*adapter_pair(to_device(inputs)))


@pytest.mark.parametrize(("groups", "norm"), [(None, "post"), (3, "post"), (None, "none")], ids=str)
def test_weights_beyond_shared_memory(monkeypatch, groups, norm):
    """Tokens are held in registers then, a tile a program."""
    architecture = _launch.architecture(torch.device(DEVICE))._replace(shared=48 << 10)
    monkeypatch.setattr(_launch, "architecture", lambda device: architecture)
    launched = record(monkeypatch)
    compare(*adapter_pair(to_device(adapter_inputs(6, 40, 250, 20, groups, norm, torch.float16)), norm=norm))
    assert "forward_kernel" in launched
    assert "walk_kernel" not in launched


def record(monkeypatch):
    """The names of the kernels launched from now on."""
    launched, launch = [], _launch.launch

    def recorded(kernel, *arguments, **named):
        launched.append(kernel.fn.__name__)
        launch(kernel, *arguments, **named)

    monkeypatch.setattr(_launch, "launch", recorded)
    return launched


def test_launches_of_an_adapter(monkeypatch):
    """Few tokens are one launch; of more, and for the gradients, two sum up the weights first for an outer norm."""
    launched = record(monkeypatch)

    def count(function, *arguments):
        launched.clear()
        function(*arguments)
        return len(launched)

    for tokens, norm, launches in ((8, "post", 1), (8, "none", 1), (160, "post", 3), (160, "none", 1)):
        inputs = to_device(adapter_inputs(1, tokens, 16, 4, None, norm, torch.float32))
        weights = AdapterWeights(*(inputs.get(name) for name in AdapterWeights._fields))
        options = (None, norm, "gelu", 1e-5)
        if DEVICE == "cpu" or tokens == 8:  # a GPU has more processors than these tokens have tiles
            assert count(adapter.forward, inputs["x"], weights, *options) == launches
        pre = inputs["x"].new_zeros(1, tokens, 4)
        backward = (inputs["x"], inputs["x"], pre, weights, *options)
        assert count(adapter.backward, *backward) == (5 if norm == "post" else 3)


def test_more_sentences_than_are_looked_at_in_one_step(monkeypatch):
    for module in (_sums, adapter, lora_linear):
        monkeypatch.setattr(module, "SENTENCES", 8)
    compare(*adapter_pair(to_device(adapter_inputs(20, 1, 16, 4, 3, "post", torch.float32))))
    compare(*lora_pair(to_device(lora_inputs(20, 1, 16, 8, 2, 3, torch.float32)), 0.5))


@pytest.mark.parametrize("norm", ["post", "both"])
def test_adapter_of_groups_without_sentences(norm):
    """Of five groups two have sentences, in no order: the others' gradients are zero, not what the memory held."""
    inputs = to_device(adapter_inputs(5, 3, 40, 6, 5, norm, torch.float32))
    inputs["group"] = torch.tensor([3, 0, 3, 0, 3], device=DEVICE)
    tested, plain, tensors, names = adapter_pair(inputs, norm=norm)
    compare(tested, plain, tensors, names)
    grads = value_and_gradients(tested, tensors, torch.randn_like(inputs["x"]))
    for name, grad in zip(names[1:], grads[2:], strict=True):
        assert not grad[[1, 2, 4]].any(), name
        assert grad[0].any(), name
        assert grad[3].any(), name


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_from_one_end_to_the_other(activation):
    """Through an adapter that passes them on; values and slopes as PyTorch's in float64 to a few roundings, NaN too."""
    ends = torch.tensor([-3e38, -1e30, -1e4, -88.0, -0.0, 0.0, 1e-30, 88.0, 1e4, 1e30, 1e38])
    pre = torch.cat([torch.linspace(-30, 30, 201), ends]).reshape(-1, 1).to(DEVICE).requires_grad_()
    one, zero = torch.ones(1, 1, device=DEVICE), torch.zeros(1, device=DEVICE)
    value = ops.adapter(pre, one, zero, one, zero, norm="none", activation=activation) - pre
    (slope,) = torch.autograd.grad(value.sum(), pre)
    exact_pre = pre.detach().double().requires_grad_()
    expected = ACTIVATIONS[activation](exact_pre)
    (expected_slope,) = torch.autograd.grad(expected.sum(), exact_pre)
    rounding = torch.finfo(torch.float32).eps
    scale = 1 + 2 * exact_pre.detach().abs()  # x itself was added and taken away again
    assert ((value.detach().double() - expected.detach()).abs() / scale).max() < 2 * rounding
    assert (slope.double() - expected_slope).abs().max() < 16 * rounding
    nan = torch.full((1, 1), float("nan"), device=DEVICE)
    assert ops.adapter(nan, one, zero, one, zero, norm="none", activation=activation).isnan().all()


@pytest.mark.parametrize(("hidden", "bottleneck"), [(200, 6), (2100, 3), (70, 40)])
def test_moments_about_the_mean(hidden, bottleneck):
    """Of columns far from zero, with a row far from all others, whose parts have other means: nothing cancels."""
    up = 100 + torch.randn(3, hidden, bottleneck, device=DEVICE) + torch.linspace(-9, 9, hidden, device=DEVICE)[:, None]
    up[:, 0] = -1000
    shift = 50 + torch.randn(3, hidden, device=DEVICE)
    weights = AdapterWeights(None, None, up, shift, shift, shift, None, None)
    moments = adapter._moments(weights, "post", "ieee", _launch.architecture(up.device)).double()
    block = _launch.padded(bottleneck)
    columns = torch.cat([up, shift[..., None]], 2).double()
    centred = columns - columns.mean(1, keepdim=True)
    expected = centred.mT @ centred / hidden
    scale = expected.diagonal(dim1=1, dim2=2).sqrt()
    found = torch.empty_like(expected)
    found[:, :-1, :-1] = moments[:, 3 * block :].view(3, block, block)[:, :bottleneck, :bottleneck]
    found[:, -1, :-1] = found[:, :-1, -1] = moments[:, 2 * block : 2 * block + bottleneck]
    found[:, -1, -1] = moments[:, 2 * block - 1]
    torch.testing.assert_close(moments[:, : bottleneck + 1], columns.mean(1), rtol=1e-6, atol=0)
    assert ((found - expected).abs() / (scale[:, :, None] * scale[:, None, :])).max() < 1e-5


@pytest.mark.parametrize("spread", [1.0, 0.01])
@pytest.mark.parametrize("tokens", [40, 70])
def test_adapter_whose_columns_cancel(spread, tokens):
    inputs = to_device(adapter_inputs(2, tokens, 96, 12, None, "post", torch.float32))
    assert_accurate_where_columns_cancel(inputs, spread)
