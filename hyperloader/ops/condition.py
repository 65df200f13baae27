"""The conditions of a hypernetwork."""

from torch import Tensor

from hyperloader.ops.backend import operator


def condition(
    task_embedding: Tensor,
    layer_embedding: Tensor,
    position_embedding: Tensor,
    layers: Tensor,
    positions: Tensor,
    first_weight: Tensor,
    first_bias: Tensor,
    second_weight: Tensor,
    second_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    scales: tuple[float, float, float] = (1.0, 1.0, 1.0),
    eps: float = 1e-6,
) -> Tensor:
    """One row of numbers for every position, layer and task, from which a hypernetwork generates weights.

        hidden = relu(scales[0] · first_weight · [task ; layer ; position] + first_bias)
        condition = scales[2] · LN(scales[1] · second_weight · hidden + second_bias; norm_weight, norm_bias)

    Args:
        task_embedding: (tasks, E), a row per task.
        layer_embedding: (any, E), of which the rows ``layers`` are used.
        position_embedding: (any, E), of which the rows ``positions`` are used.
        layers: (layers,) int64.
        positions: (positions,) int64.
        first_weight: (hidden, 3 E).
        first_bias: (hidden,).
        second_weight: (condition_dim, hidden).
        second_bias, norm_weight, norm_bias: (condition_dim,).
        scales: what the two products and the result are multiplied with.
        eps: added to the variance.

    Returns:
        (positions, layers, tasks, condition_dim) in the dtype of ``task_embedding``. Differentiable in every tensor but
        ``layers`` and ``positions``. Sums are taken in float32 (float64 for float64).

    Raises:
        ValueError, TypeError, IndexError: a shape, a dtype or device, an index; the message names the argument.

    Source: arXiv 2407.01411, section 3.
    """
    return operator("condition")(
        task_embedding, layer_embedding, position_embedding, layers, positions, first_weight, first_bias, second_weight,
        second_bias, norm_weight, norm_bias, scales, eps,
    )  # fmt: skip
