"""The gate: bounds how many threads wait for an outside system at a time.

In: threads. Out: passage, or `Full`. A server has few threads: while Kafka or DynamoDB
is stalled, some have to stay free for the probes and for the refusals.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

STALLED_S = 0.5
FIRST_S = 0.8
"""What a first answer may take: a process that has just started connects before it."""


class Full(Exception):
    """Nothing moves, or too slowly, and enough wait already: answer now."""


class Gate:
    """Lets `capacity` through at a time; the rest queues only while things move."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._moved_at = 0.0
        self._patience_s = FIRST_S
        # Places as things in a queue: which waits in C, unlike a Condition.
        self._slots: SimpleQueue[None] = SimpleQueue()
        for _ in range(capacity):
            self._slots.put(None)

    @contextmanager
    def passage(self, most_s: float = math.inf) -> Iterator[Callable[[], None]]:
        """Yields what to call when the outside system has answered.

        Raises Full where nothing moves, and after queueing for `most_s`.
        """
        self._enter(time.monotonic() + most_s)
        try:
            yield self._move
        finally:
            self._slots.put(None)
            self._patience_s = STALLED_S  # not before: who queues takes that place

    def _move(self) -> None:
        self._moved_at = time.monotonic()

    def _enter(self, by: float) -> None:
        if self._slots.qsize() == self._capacity:  # nobody waits: it can't be stalled
            self._move()
        with suppress(Empty):
            return self._slots.get_nowait()
        while True:
            left_s = min(self._moved_at + self._patience_s, by) - time.monotonic()
            with suppress(Empty):
                return self._slots.get(timeout=max(0, min(left_s, STALLED_S)))
            if left_s <= 0:
                raise Full
