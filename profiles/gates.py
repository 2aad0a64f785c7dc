"""The gate: bounds how many threads wait for an outside system at a time.

In: threads. Out: passage, or `Full`. A server has few threads: while Kafka or DynamoDB
is stalled, some have to stay free for the probes and for the refusals.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition

STALLED_S = 0.5


class Full(Exception):
    """Nothing moves, and enough wait already: answer at once."""


class Gate:
    """Lets `capacity` through at a time; the rest queues only while things move."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._inside = 0
        self._moved_at = 0.0
        self._changed = Condition()

    @contextmanager
    def passage(self) -> Iterator[Callable[[], None]]:
        """Yields what to call when the outside system has answered; raises Full."""
        self._enter()
        try:
            yield self._move
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify()

    def _move(self) -> None:
        self._moved_at = time.monotonic()

    def _enter(self) -> None:
        with self._changed:
            if self._inside == 0:
                self._moved_at = time.monotonic()
            while self._inside >= self._capacity:
                patience_s = self._moved_at + STALLED_S - time.monotonic()
                if patience_s <= 0:
                    raise Full
                self._changed.wait(patience_s)
            self._inside += 1
