"""Adapters and LoRA whose x and weights are all bfloat16: processors with AVX512-BF16 read such rows where they lie.

Elsewhere the same cases run through the loops that widen the rows.
"""

import pytest
import torch
from helpers.cases import adapter_inputs, lora_inputs
from helpers.pairs import adapter_pair, assert_accurate_where_columns_cancel, compare, lora_pair

from hyperloader import ops
from hyperloader.ops import native

pytestmark = pytest.mark.skipif(not native.available, reason=f"no native extension: {native.reason}")

# batch, tokens, hidden, bottleneck: more than one pass of the products and a part of a vector; fewer columns than a
# vector; an odd number of terms; more coefficients than are packed at a time; as many terms as bfloat16 rows allow, and
# one more
SIZES = [(2, 40, 2085, 8), (3, 50, 31, 5), (1, 33, 64, 2), (2, 20, 96, 300)]
SIZES += [(1, 9, 40, bottleneck) for bottleneck in (510, 511, 512)]


@pytest.fixture(autouse=True)
def native_backend():
    with ops.use_backend("native"):
        yield


@pytest.mark.parametrize("groups", [None, 2], ids=["single", "mixed"])
@pytest.mark.parametrize("norm", ["post", "none"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_adapter(size, norm, groups):
    compare(*adapter_pair(adapter_inputs(*size, groups, norm, torch.bfloat16), norm=norm))


@pytest.mark.parametrize("groups", [None, 2], ids=["single", "mixed"])
@pytest.mark.parametrize(
    "size", [(2, 40, 2085, 33, 7), (3, 11, 31, 64, 1), (2, 20, 96, 80, 300), (1, 9, 40, 50, 512), (1, 9, 40, 50, 513)]
)
def test_lora_linear(size, groups):
    compare(*lora_pair(lora_inputs(*size, groups, torch.bfloat16), 0.5))


@pytest.mark.parametrize("spread", [1.0, 0.1])
def test_adapter_whose_columns_cancel(spread):
    assert_accurate_where_columns_cancel(adapter_inputs(4, 64, 384, 12, None, "post", torch.bfloat16), spread)


def test_weights_of_float32_keep_their_digits():
    """Beside a bfloat16 x the result is that of float32, rounded once; with bfloat16 weights it is that nearly."""
    inputs = adapter_inputs(2, 40, 96, 8, None, "none", torch.bfloat16)
    widened = {name: tensor.float() for name, tensor in inputs.items()}
    exact = ops.adapter(**widened, norm="none")
    digits = ops.adapter(**{**widened, "x": inputs["x"]}, norm="none")
    assert torch.equal(digits, exact.bfloat16())
    rounded = ops.adapter(**inputs, norm="none")
    assert torch.equal(rounded, digits) is not native.build_info()["multiplies_bfloat16"]
    assert (rounded.float() - exact).abs().max() <= 2 * torch.finfo(torch.bfloat16).eps * exact.abs().max()


def test_what_is_not_finite_stays_in_its_token():
    inputs = adapter_inputs(2, 40, 96, 8, None, "post", torch.bfloat16)
    expected = ops.adapter(**inputs)
    inputs["x"][1, 3, 95] = float("nan")
    inputs["x"][0, 7, 0] = float("inf")
    found = ops.adapter(**inputs)
    assert found[1, 3].isnan().all()
    assert found[0, 7].isnan().any()
    rest = torch.ones(2, 40, dtype=torch.bool)
    rest[1, 3] = rest[0, 7] = False
    assert torch.equal(found[rest], expected[rest])
