"""The window: how many calls may be under way at a time.

In: how long calls took, and whether the table had trouble. Out: the number. It grows
while calls are answered about as fast as the fastest, and shrinks when they queue.
"""

from __future__ import annotations

LEAST = 4
MOST = 32
QUEUED = 2.0
"""A call that takes so many times as long as the fastest has waited for others."""

FORGET = 1.001
"""By which the fastest is forgotten, a call: a table may become slower for good."""

SHRINK = 0.25
"""By which each call that has waited for others makes the window smaller."""


class Window:
    """It grows by one call a round of answers, and starts small, as TCP's does."""

    def __init__(self) -> None:
        self._size = float(LEAST)
        self._fastest_s = float("inf")

    @property
    def size(self) -> int:
        return int(self._size)

    def answered(self, seconds: float) -> None:
        """A full call was answered: smaller ones are faster, and would mislead."""
        self._fastest_s = min(self._fastest_s * FORGET, seconds)
        if seconds <= self._fastest_s * QUEUED:
            self._size = min(self._size + 1 / self._size, MOST)
        elif self._size > LEAST:
            self._size = max(self._size - SHRINK, LEAST)

    def halve(self) -> None:
        """The table throttles, or does not answer: an attempt had trouble."""
        self._size = max(self._size / 2, 1)
