"""How a server's process takes memory from the operating system."""

import ctypes

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_LARGE = 1 << 20  # bytes


def give_back_large_blocks() -> bool:
    """Have glibc ask the system for each block of a mebibyte or more, and give it back when it is freed, from now on;
    False where the C library is another one.

    Left alone it keeps blocks of up to 32 MiB in its heap once one of that size has been freed. Batches differ in size,
    so that the heap goes to pieces: what lies free between two pieces in use grows for hours.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_MMAP_THRESHOLD, _LARGE) == 1
