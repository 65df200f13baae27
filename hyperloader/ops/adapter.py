"""The bottleneck adapter."""

from torch import Tensor

from hyperloader.ops.backend import operator


def adapter(
    x: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    *,
    group: Tensor | None = None,
    norm: str = "post",
    activation: str = "gelu_new",
    eps: float = 1e-5,
    pre_norm_weight: Tensor | None = None,
    pre_norm_bias: Tensor | None = None,
) -> Tensor:
    """Bottleneck adapter with a residual and a layer norm (LN), differentiable in every tensor but ``group``.

        post   y = x + LN(up_weight · act(down_weight · x + down_bias) + up_bias; norm_weight, norm_bias)
        pre    y = x + up_weight · act(down_weight · LN(x; norm_weight, norm_bias) + down_bias) + up_bias
        both   the two together, the inner norm with pre_norm_weight and pre_norm_bias
        none   y = x + up_weight · act(down_weight · x + down_bias) + up_bias

    Args:
        x: (..., hidden); float32, bfloat16, float16 or float64.
        down_weight: (bottleneck, hidden).
        down_bias: (bottleneck,).
        up_weight: (hidden, bottleneck).
        up_bias: (hidden,).
        norm_weight, norm_bias: (hidden,); None for norm ``none``.
        group: (batch,) int64, the index of each sentence's weights: then ``x`` is (batch, ..., hidden) and every
            weight carries a first dimension (groups, ...).
        norm: ``post``, ``pre``, ``both`` or ``none``.
        activation: ``gelu_new`` (tanh form), ``gelu`` (exact), ``relu`` or ``silu``.
        eps: added to the variance.
        pre_norm_weight, pre_norm_bias: (hidden,), for norm ``both`` alone.

    The weights have the dtype of ``x``, or float32 beside a half-precision ``x``; sums are taken in float32 (float64
    for float64).

    Returns:
        ``y``, with the shape and dtype of ``x``.

    Raises:
        ValueError, TypeError, IndexError: a shape, a dtype or device, a group index; the message names the argument.

    Source: arXiv 2407.01411 (HyperLoader), adapters after arXiv 2106.04489 (HyperFormer++).
    """
    return operator("adapter")(
        x, down_weight, down_bias, up_weight, up_bias, norm_weight, norm_bias, pre_norm_weight, pre_norm_bias,
        group, norm, activation, eps,
    )[0]  # fmt: skip
