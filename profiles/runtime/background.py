"""Background reading: something outside, read again and again while it is used.

In: what to open and to read with. Out: the last reading, or why there is none. Knows
neither Kafka nor DynamoDB.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
Source = AbstractContextManager[Callable[[], T]]
"""Entering it gives the function that reads."""

EVERY_S = 2.0
IDLE_S = 600.0
"""How long after the last use the readings go on: a page opened again has a chart."""


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """One attempt to read: a value, or the problem; `began` is monotonic time."""

    value: T | None
    problem: str = ""
    began: float = -math.inf


class BackgroundReader(Generic[T]):
    """Reads something outside every EVERY_S, in a daemon thread.

    The thread starts with the first use, so after any fork, and ends IDLE_S after the
    last one. It opens what it reads with, and closes it at its end. A problem has the
    text of an `expected` error, and of any other error the type only.
    """

    def __init__(
        self,
        name: str,
        source: Callable[[], Source[T]],
        expected: tuple[type[Exception], ...],
    ) -> None:
        self._name = name
        self._source = source
        self._expected = expected
        self._read: Callable[[], T] | None = None
        self._changed = Condition()
        self._thread: Thread | None = None
        self._wanted_until = 0.0
        self._wanted_after = -math.inf
        self._unread: Reading[T] = Reading(None, f"{name} has not answered yet")
        self._latest = self.last_success = self._unread

    def start(self) -> None:
        """Start the thread, or keep it running."""
        with self._changed:
            self._wanted_until = time.monotonic() + IDLE_S
            if self._thread is None:
                self._latest = self._unread
                self._thread = Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def latest(self, by: float) -> Reading[T]:
        """The last reading; waits for the first one until `by` (monotonic time)."""
        return self.newer_than(-math.inf, by)

    def newer_than(self, moment: float, by: float) -> Reading[T]:
        """The last reading, if it began after a moment; one such reading serves all.

        Waits for it until `by`, then returns a problem. Both are monotonic time.
        """
        self._wanted_until = time.monotonic() + IDLE_S
        latest = self._latest
        if latest.began > moment:  # without the lock: every request passes here
            return latest
        self.start()
        with self._changed:
            self._wanted_after = max(self._wanted_after, moment)
            self._changed.notify_all()
            left_s = max(0.0, by - time.monotonic())
            self._changed.wait_for(lambda: self._latest.began > moment, left_s)
            return self._latest if self._latest.began > moment else self._unread

    def _run(self) -> None:
        with ExitStack() as opened:
            while self._is_wanted():
                reading = self._attempt(opened)
                with self._changed:
                    self._latest = reading
                    if reading.value is not None:
                        self.last_success = reading
                    self._changed.notify_all()
                    self._pause(reading)

    def _pause(self, last: Reading[T]) -> None:
        """Wait for the next turn; a failure, or a request for news, brings it forward."""
        pause_s = EVERY_S / 4 if last.value is None else EVERY_S
        self._changed.wait_for(lambda: self._wanted_after >= last.began, pause_s)

    def _is_wanted(self) -> bool:
        with self._changed:
            if time.monotonic() > self._wanted_until:
                self._thread = self._read = None
                self._latest = self._unread
            return self._thread is not None

    def _attempt(self, opened: ExitStack) -> Reading[T]:
        began = time.monotonic()
        try:
            if self._read is None:
                self._read = opened.enter_context(self._source())
            return Reading(self._read(), "", began)
        except self._expected as error:
            return Reading(None, str(error), began)
        except Exception as error:  # whatever it is, the thread has to live on
            name = type(error).__name__
            log.error("%s can't be read: %s", self._name, name)
            return Reading(None, f"{self._name} can't be read ({name})", began)
