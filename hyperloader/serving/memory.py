"""Memory of a process that answers for a long time."""

import os

_KERNELS = 64  # some ten for the layers of one batch


def keep_few_kernels() -> None:
    """Let oneDNN keep the code that it compiles for the shapes of the latest batches only.

    It compiles PyTorch's GELU on CPUs, and bfloat16's products, for every shape and keeps the last 1,024 of them. A
    server's batches hardly ever have one shape twice; what was kept for them lay between the activations, so that the
    process grew by 70 % in 150 seconds. oneDNN reads its variable when it first compiles something: call this before
    any model runs. A user's own value stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KERNELS))
