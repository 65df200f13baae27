"""Batches of similar length."""

from collections.abc import Sequence

A_BATCH = 128  # tokens of padding that take as long as one more batch does, about


def batches_by_length(lengths: Sequence[int], max_tokens: int, most: int | None = None) -> list[list[int]]:
    """Positions in ``lengths``, every one in one batch, the longest first.

    A batch ends where one more would make it, padding included, larger than ``max_tokens`` (a single one may be), or
    more than ``most``, or where its padding has come to as much as another batch costs: from the longest on, that is
    never more than twice the least that any batches could take.
    """
    batches: list[list[int]] = []
    longest = padding = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        batch = batches[-1] if batches else []
        full = (len(batch) + 1) * longest > max_tokens or len(batch) == most
        if not batch or full or padding + longest - lengths[place] > A_BATCH:
            batches.append([])
            longest, padding = lengths[place], 0
        batches[-1].append(place)
        padding += longest - lengths[place]
    return batches
