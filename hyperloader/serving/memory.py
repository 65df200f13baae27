"""Memory of a process that answers for a long time."""

import os

_KERNELS = 64  # some ten for the layers of one batch


def keep_few_kernels() -> None:
    """Let oneDNN keep the code that it compiles for the shapes of the latest batches only.

    PyTorch's GELU on CPUs (and bfloat16's products) are compiled anew for every shape and kept in 1,024 entries. Batches
    of a server hardly ever have the same shape twice; what was kept for them lay between the activations, so that the
    heap grew by half in two minutes, and later batches found nothing in it. oneDNN reads its variable when it first
    compiles something: call this before any model runs. A user's own value stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KERNELS))
