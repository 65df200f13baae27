"""The bottleneck adapter in Triton: one launch forward, three backward.

Tensors may be strided; the weights float32 beside half-precision tokens. Same contract as
``hyperloader.reference.adapter``.
"""

import torch
import triton
from torch import Tensor

from hyperloader.kernels import _launch
from hyperloader.kernels._adapter_backward import tokens_kernel, weights_kernel
from hyperloader.kernels._adapter_forward import forward_kernel
from hyperloader.kernels._launch import padded
from hyperloader.kernels._sums import SENTENCES, Product, sums
from hyperloader.reference.groups import AdapterWeights

__all__ = ["backward", "forward"]


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
    blocks = _launch.adapter_blocks(dot, _launch.architecture(x.device))
    _launch.launch(
        forward_kernel, (tokens.tiles(blocks.tokens),),
        x, weights.down_weight, weights.down_bias, weights.up_weight, weights.up_bias, *weights.outer_norm(norm),
        *weights.inner_norm(norm), tokens.group, y, pre, tokens.length, tokens.groups, eps,
        HIDDEN=hidden, BOTTLENECK=bottleneck, ACTIVATION=activation, DOT=dot, PRECISION=precision,
        BLOCK_T=blocks.tokens, BLOCK_H=blocks.columns, BLOCK_B=padded(bottleneck),
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
    block_b = padded(bottleneck + 1)
    block_h = max(16, 1024 // block_b)
    section = triton.cdiv(bottleneck + 2, 8) * 8
    device = x.device
    blocks = _launch.adapter_blocks(dot, _launch.architecture(device))
    units = torch.empty(tokens.count, 3 * section, dtype=_launch.scratch_dtype(x), device=device)
    moments = None if inner[0] is None else torch.empty(tokens.count, 2, dtype=torch.float32, device=device)
    order = None if group is None else torch.empty(tokens.sentences, dtype=torch.int32, device=device)
    _launch.launch(
        tokens_kernel, (tokens.tiles(blocks.tokens),),
        grad, x, pre, down, up, up_shift, outer[0], inner[0], tokens.group, results[0], units, moments, order,
        tokens.length, tokens.groups, tokens.sentences, eps,
        HIDDEN=hidden, BOTTLENECK=bottleneck, SECTION=section, ACTIVATION=activation, DOT=dot, PRECISION=precision,
        BLOCK_T=blocks.tokens, BLOCK_H=blocks.columns, BLOCK_B=padded(bottleneck), BLOCK_S=SENTENCES,
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
    of_x = -1 if moments is None else 1
    partial = sums(products, tokens, order, _launch.architecture(device), moments, normalised=of_x)
    _launch.launch(
        weights_kernel, (triton.cdiv(hidden, block_h), tokens.groups),
        partial, down, up, up_shift, outer[0], *inner,
        grads.down_weight, grads.down_bias, grads.up_weight, grads.up_bias, *grads.outer_norm(norm),
        *grads.inner_norm(norm), partial.shape[1],
        HIDDEN=hidden, BOTTLENECK=bottleneck, OF_X=products[0].size, OF_UNITS=products[0].size + products[1].size,
        UNITS=products[2].left.shape[1], FIRST=section - first, TOTAL=partial.shape[2], BLOCK_H=block_h,
        BLOCK_B=block_b, num_warps=4,
    )  # fmt: skip
    return results
