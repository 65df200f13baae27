"""How fast a server answers."""

import math
import time
from collections import deque
from collections.abc import Callable

_RECENT_S = 30.0


class Pace:
    """Inputs answered a second, over the last ``_RECENT_S`` seconds in which any waited; idle time does not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last, self._waiting = clock(), False
        self._busy = 0.0  # seconds
        self._answered: deque[tuple[float, int]] = deque()  # when, in busy seconds, and how many
        self._count = 0

    def note(self, waiting: int, answered: int = 0) -> None:
        """That so many wait from now on, and so many have just been answered."""
        now = self._clock()
        self._busy += now - self._last if self._waiting else 0
        self._last, self._waiting = now, waiting > 0
        if answered:
            self._answered.append((self._busy, answered))
            self._count += answered
        while self._answered and self._answered[0][0] < self._busy - _RECENT_S:
            self._count -= self._answered.popleft()[1]

    def seconds(self, waiting: int, most: int) -> int:
        """Until so many are answered: from 1 to ``most``, which it is where none was answered of late."""
        self.note(waiting)
        if not self._count:
            return most
        return max(1, min(most, math.ceil(waiting * min(self._busy, _RECENT_S) / self._count)))
