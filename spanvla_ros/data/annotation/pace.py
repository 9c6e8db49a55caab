"""How fast requests may go out: a rate for all threads together, and pauses that the endpoint asks for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pace:
    """Spaces calls of `wait` evenly at `per_minute` (0: as they come). Thread-safe."""

    def __init__(self, per_minute: float = 0.0, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep):
        self._step_s = 60.0 / per_minute if per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._next = self._paused = clock()

    def wait(self) -> None:
        """Returns when the caller may send one request."""
        with self._lock:
            mine = max(self._next, self._clock())
            self._next = mine + self._step_s
        # a pause may begin while others wait for their turn
        while (left := max(mine, self._paused) - self._clock()) > 0:
            self._sleep(left)

    def pause(self, seconds: float) -> None:
        """Nothing goes out for so long; pauses don't add up."""
        with self._lock:
            self._paused = max(self._paused, self._clock() + seconds)
            self._next = max(self._next, self._paused)
