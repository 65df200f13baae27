"""What the adapter's forward and backward compute alike, for one block of hidden columns."""

import triton
import triton.language as tl

from hyperloader.kernels._math import load_block


@triton.jit
def load_up(up_ptr, columns, units, HIDDEN: tl.constexpr, BOTTLENECK: tl.constexpr):
    """A block of ``up_weight`` [columns, units]."""
    return load_block(up_ptr, columns, columns < HIDDEN, BOTTLENECK, units, units < BOTTLENECK)


@triton.jit
def load_down(down_ptr, columns, units, HIDDEN: tl.constexpr, BOTTLENECK: tl.constexpr):
    """A block of ``down_weight`` [units, columns]."""
    return load_block(down_ptr, units, units < BOTTLENECK, HIDDEN, columns, columns < HIDDEN)
