"""Gates: bound what waits for an outside system at a time.

In: threads, or requests on an event loop. Out: a slot or a share, or `Full`. A server has
few threads. While Kafka or DynamoDB is stalled, some must stay free for probes and
refusals. An event loop has no such limit, but its memory has.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Lock

STALLED_S = 0.5
FIRST_S = 0.8
"""How long the first answer may take: a process that has just started has to connect."""


class Full(Exception):
    """Too much waits already, and nothing moves, or too slowly: answer now."""


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
        # If no thread waits, nothing is stalled.
        if self._slots.qsize() == self._capacity:
            self._move()
        with suppress(Empty):
            return self._slots.get_nowait()
        while True:
            left_s = min(self._moved_at + self._patience_s, by) - time.monotonic()
            with suppress(Empty):
                return self._slots.get(timeout=max(0, min(left_s, STALLED_S)))
            if left_s <= 0:
                raise Full


class Budget:
    """Bounds an amount under way at a time: a number of updates, or of bytes.

    A thread takes its share at once or not at all. On an event loop, requests queue for
    theirs in order, as long as things move: such a queue holds no thread. An amount over
    the whole budget is let through alone.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0
        self._moved_at = 0.0
        self._queue: deque[_Share] = deque()
        self._lock = Lock()

    def take(self, amount: int) -> bool:
        """Whether there is room for this amount; it then has to be given back."""
        with self._lock:
            return not self._queue and self._take(amount)

    def give_back(self, amount: int) -> None:
        """Make room, from any thread; the next in the queue get theirs."""
        with self._lock:
            self._used -= amount
            self._moved_at = time.monotonic()
            while self._queue and self._take(self._queue[0].amount):
                self._queue.popleft().grant()

    @contextmanager
    def share(self, amount: int) -> Iterator[None]:
        """A thread's share of the budget; raises Full at once if there is no room."""
        if not self.take(amount):
            raise Full
        try:
            yield
        finally:
            self.give_back(amount)

    async def queue_for(self, amount: int, most_s: float) -> None:
        """Take this amount as soon as there is room, on an event loop.

        Raises Full if nothing moves, or after queueing for `most_s`.
        """
        share = self._enqueue(amount)
        try:
            await asyncio.wait_for(asyncio.shield(share.granted), most_s)
        except BaseException as error:
            self._leave(share)
            if isinstance(error, TimeoutError):
                raise Full from None
            raise

    def _take(self, amount: int) -> bool:
        if self._used and self._used + amount > self._most:
            return False
        if not self._used:
            self._moved_at = time.monotonic()
        self._used += amount
        return True

    def _enqueue(self, amount: int) -> _Share:
        share = _Share(amount)
        with self._lock:
            if not self._queue and self._take(amount):
                share.grant()
            elif time.monotonic() > self._moved_at + FIRST_S:
                raise Full
            else:
                self._queue.append(share)
        return share

    def _leave(self, share: _Share) -> None:
        with self._lock:
            waits = share in self._queue
            if waits:
                self._queue.remove(share)
        if not waits:  # granted at the last moment
            self.give_back(share.amount)


class _Share:
    """One that queues on an event loop."""

    def __init__(self, amount: int) -> None:
        self.amount = amount
        self._loop = asyncio.get_running_loop()
        self.granted = self._loop.create_future()

    def grant(self) -> None:
        """Let it through; called in any thread."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        if not self.granted.done():
            self.granted.set_result(None)
