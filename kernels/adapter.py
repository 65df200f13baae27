"""The bottleneck adapter in Triton: one launch forward, three backward; with an outer norm two more of each.

Those sum up the weights (``_adapter_moments.py``). Two forwards do without: that of programs which keep their weights
(``_adapter_walk.py``), and that of so few tokens that every tile has a processor to itself, where they would take
longer than what they save.

Tensors may be strided; the weights float32 beside half-precision tokens. Same contract as
``hyperloader.reference.adapter``.
"""

import torch
import triton
from torch import Tensor

from hyperloader.kernels import _launch
from hyperloader.kernels._adapter_backward import tokens_kernel, weights_kernel
from hyperloader.kernels._adapter_forward import forward_kernel
from hyperloader.kernels._adapter_moments import PARTS, join_kernel, parts_kernel, size
from hyperloader.kernels._adapter_walk import walk_kernel
from hyperloader.kernels._launch import padded
from hyperloader.kernels._sums import Product, sums
from hyperloader.kernels._tokens import SENTENCES
from hyperloader.reference.groups import AdapterWeights

__all__ = ["backward", "forward"]

_COLUMNS, _UNITS = 32, 32  # hidden and bottleneck units of a program that adds the shares of the weights' gradients


def forward(
    x: Tensor,
    weights: AdapterWeights,
    group: Tensor | None,
    norm: str,
    activation: str,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Return ``y`` and the pre-activation (..., bottleneck), float32."""
    hidden, bottleneck = x.shape[-1], weights.down_weight.shape[-2]
    _launch.check_dtype("adapter", x.dtype)
    _launch.check_width("adapter", "bottlenecks", bottleneck)
    x = x.contiguous()
    weights = weights.map(Tensor.contiguous)
    y = torch.empty_like(x)
    pre = torch.empty(*x.shape[:-1], bottleneck, dtype=torch.float32, device=x.device)
    tokens = _launch.tokens_of(x, group, weights.down_weight.shape[0])
    if tokens.count == 0:
        return y, pre
    dot, precision = _launch.product_dtype(x, weights.down_weight, weights.up_weight)
    architecture = _launch.architecture(x.device)
    exact = _launch.exact_precision(dot, architecture)
    block_b = padded(bottleneck)
    inner = weights.inner_norm(norm)
    walk = _launch.walk_blocks(dot, hidden, block_b, architecture) if inner[0] is None else None
    if walk is not None:
        tiles = tokens.tiles(walk.tokens)
        _launch.launch(
            walk_kernel, (min(tiles, walk.programs * architecture.processors),),
            x, weights.down_weight, weights.down_bias, weights.up_weight, weights.up_bias, *weights.outer_norm(norm),
            tokens.group, y, pre, tokens.length, tokens.groups, tiles, eps,
            HIDDEN=hidden, BOTTLENECK=bottleneck, ACTIVATION=activation,
            BLOCK_T=walk.tokens, BLOCK_H=walk.columns, BLOCK_B=block_b, AHEAD=walk.num_stages,
            num_warps=walk.num_warps, num_stages=walk.num_stages, **_launch.all_registers(architecture),
        )  # fmt: skip
        return y, pre
    # the float32 copy of x that an inner norm makes would be held beside it
    blocks = _launch.adapter_blocks(dot, hidden, block_b, inner[0] is None, architecture)
    tiles = tokens.tiles(blocks.tokens)
    moments = _moments(weights, norm, exact, architecture) if tiles > architecture.processors else None
    _launch.launch(
        forward_kernel, (tiles,),
        x, weights.down_weight, weights.down_bias, weights.up_weight, weights.up_bias, *weights.outer_norm(norm),
        *inner, moments, tokens.group, y, pre, tokens.length, tokens.groups, eps,
        HIDDEN=hidden, BOTTLENECK=bottleneck, ACTIVATION=activation, DOT=dot, PRECISION=precision, EXACT=exact,
        HELD=blocks.held, BLOCK_T=blocks.tokens, BLOCK_H=blocks.columns, BLOCK_B=block_b,
        num_warps=blocks.num_warps, num_stages=blocks.num_stages,
    )  # fmt: skip
    return y, pre


def backward(
    grad: Tensor,
    x: Tensor,
    pre: Tensor,
    weights: AdapterWeights,
    group: Tensor | None,
    norm: str,
    activation: str,
    eps: float,
) -> list[Tensor]:
    """Return the gradients of ``x`` and of every weight that is present, in the order of the arguments."""
    hidden, bottleneck = x.shape[-1], weights.down_weight.shape[-2]
    _launch.check_dtype("adapter", x.dtype)
    _launch.check_width("adapter", "bottlenecks", bottleneck)
    grad, x, pre, weights = grad.contiguous(), x.contiguous(), pre.contiguous(), weights.map(Tensor.contiguous)
    down, up, up_shift = weights.down_weight, weights.up_weight, weights.up_bias
    outer, inner = weights.outer_norm(norm), weights.inner_norm(norm)
    tokens = _launch.tokens_of(x, group, weights.down_weight.shape[0])
    grads = weights.map(torch.empty_like)
    results = [torch.empty_like(x), *grads.present()]
    if tokens.count == 0:
        for one in results:
            one.zero_()
        return results

    dot, precision = _launch.product_dtype(x, weights.down_weight, weights.up_weight)
    block_b = padded(bottleneck)
    block_u = min(_UNITS, block_b)
    section = triton.cdiv(bottleneck + 2, 8) * 8
    device, architecture = x.device, _launch.architecture(x.device)
    blocks = _launch.adapter_blocks(dot, hidden, block_b, False, architecture)
    exact = _launch.exact_precision(dot, architecture)
    moments = _moments(weights, norm, exact, architecture)
    units = torch.empty(tokens.count, 3 * section, dtype=_launch.scratch_dtype(x), device=device)
    x_moments = None if inner[0] is None else torch.empty(tokens.count, 2, dtype=torch.float32, device=device)
    order = None if group is None else torch.empty(tokens.sentences, dtype=torch.int32, device=device)
    _launch.launch(
        tokens_kernel, (tokens.tiles(blocks.tokens),),
        grad, x, pre, down, up, up_shift, outer[0], inner[0], moments, tokens.group, results[0], units, x_moments,
        order, tokens.length, tokens.groups, tokens.sentences, eps,
        HIDDEN=hidden, BOTTLENECK=bottleneck, SECTION=section, MOMENTS=size(block_b),
        ACTIVATION=activation, DOT=dot, PRECISION=precision, EXACT=exact,
        BLOCK_T=blocks.tokens, BLOCK_H=blocks.columns, BLOCK_B=block_b, BLOCK_S=SENTENCES,
        num_warps=blocks.num_warps, num_stages=blocks.num_stages,
    )  # fmt: skip

    first = section if outer[0] is None else 0  # without an outer norm the first section is empty
    grad_pre = units[:, section : section + bottleneck]
    basis = units[:, 2 * section : 2 * section + bottleneck + (outer[0] is not None)]
    products = [
        Product(grad.view(-1, hidden), basis),
        Product(x.view(-1, hidden), grad_pre),
        Product(units[:, first : section + bottleneck], basis),
    ]
    of_x = -1 if x_moments is None else 1
    partial = sums(products, tokens, order, architecture, x_moments, normalised=of_x)
    _launch.launch(
        weights_kernel, (triton.cdiv(hidden, _COLUMNS), 1 + triton.cdiv(bottleneck, block_u), tokens.groups),
        partial, down, up, up_shift, moments, outer[0], *inner,
        grads.down_weight, grads.down_bias, grads.up_weight, grads.up_bias, *grads.outer_norm(norm),
        *grads.inner_norm(norm), partial.shape[1],
        HIDDEN=hidden, BOTTLENECK=bottleneck, OF_X=products[0].size, OF_UNITS=products[0].size + products[1].size,
        UNITS=products[2].left.shape[1], FIRST=section - first, TOTAL=partial.shape[2],
        MOMENTS=size(block_b), BLOCK_H=_COLUMNS, BLOCK_B=block_b, BLOCK_U=block_u,
        num_warps=_launch.warps(block_b), **_launch.all_registers(architecture),
    )  # fmt: skip
    return results


def _moments(weights: AdapterWeights, norm: str, exact: str, architecture: _launch.Architecture) -> Tensor | None:
    """Moments of every group's ``up_weight`` and ``up_bias``, or None without an outer norm."""
    if weights.outer_norm(norm)[0] is None:
        return None
    up = weights.up_weight
    groups, (hidden, bottleneck) = up.shape[:-2].numel(), up.shape[-2:]
    block = padded(bottleneck)
    own = min(32, block)
    rows = max(64, triton.next_power_of_2(triton.cdiv(hidden, PARTS)))
    count = triton.cdiv(hidden, rows)
    parts = torch.empty(groups, count, size(block), dtype=torch.float32, device=up.device)
    moments = torch.empty(groups, size(block), dtype=torch.float32, device=up.device)
    sizes = {"HIDDEN": hidden, "BOTTLENECK": bottleneck, "ROWS": rows, "PARTS": count, "BLOCK_B": block}
    _launch.launch(
        parts_kernel, (count, block // own, groups), up, weights.up_bias, parts, **sizes, EXACT=exact, OWN=own,
        BLOCK_H=32, num_warps=_launch.warps(block), **_launch.all_registers(architecture),
    )  # fmt: skip
    _launch.launch(
        join_kernel, (block + 1, groups), parts, moments, **sizes, BLOCK_P=triton.next_power_of_2(count), num_warps=4
    )
    return moments
