"""The gate: bounds how many threads wait for an outside system at a time.

In: threads. Out: a slot, or `Full`. A server has few threads. While Kafka or DynamoDB is
stalled, some must stay free for probes and refusals.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

STALLED_S = 0.5
FIRST_S = 0.8
"""How long the first answer may take: a process that has just started has to connect."""


class Full(Exception):
    """Too many threads wait already, and nothing moves, or too slowly: answer now."""


class Gate:
    """Lets `capacity` threads through at a time. Others queue only while things move."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._moved_at = 0.0
        self._patience_s = FIRST_S
        # A queue of slots: unlike a Condition, it waits in C.
        self._slots: SimpleQueue[None] = SimpleQueue()
        for _ in range(capacity):
            self._slots.put(None)

    @contextmanager
    def passage(self, most_s: float = math.inf) -> Iterator[Callable[[], None]]:
        """Yields a function to call when the outside system has answered.

        Raises Full if nothing moves, or after queueing for `most_s`.
        """
        self._enter(time.monotonic() + most_s)
        try:
            yield self._move
        finally:
            self._slots.put(None)
            # After the slot is free, so that the next waiter gets it.
            self._patience_s = STALLED_S

    def _move(self) -> None:
        self._moved_at = time.monotonic()

    def _enter(self, by: float) -> None:
        if (
            self._slots.qsize() == self._capacity
        ):  # no thread waits, so nothing is stalled
            self._move()
        with suppress(Empty):
            return self._slots.get_nowait()
        while True:
            left_s = min(self._moved_at + self._patience_s, by) - time.monotonic()
            with suppress(Empty):
                return self._slots.get(timeout=max(0, min(left_s, STALLED_S)))
            if left_s <= 0:
                raise Full
