"""Background reading: something outside, read again and again while somebody looks.

In: what to open and to read with. Out: the last reading, or why there is none. Knows
neither Kafka nor DynamoDB.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
Reading = AbstractContextManager[Callable[[], T]]
"""Open, it is what to call for a reading."""

EVERY_S = 2.0
IDLE_S = 600.0
"""How long after the last look the readings go on: who comes back finds a chart."""


@dataclass(frozen=True, slots=True)
class Look(Generic[T]):
    """The last reading, or why there is none."""

    value: T | None
    problem: str = ""


class Observer(Generic[T]):
    """Something outside, read again and again while somebody looks.

    The thread starts with a look, so in the process that asks: after any fork. It
    opens itself what it reads with, and closes it at its end. The `expected` errors
    are shown as they are.
    """

    def __init__(
        self,
        name: str,
        reading: Callable[[], Reading[T]],
        expected: tuple[type[Exception], ...],
    ) -> None:
        self.known: T | None = None
        self._name = name
        self._reading = reading
        self._expected = expected
        self._read: Callable[[], T] | None = None
        self._changed = Condition()
        self._thread: Thread | None = None
        self._wanted_until = 0.0
        self._look: Look[T] | None = None

    def wake(self) -> None:
        """Start reading, or go on."""
        with self._changed:
            self._wanted_until = time.monotonic() + IDLE_S
            if self._thread is None:
                self._look = None
                self._thread = Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def look(self, by_s: float) -> Look[T]:
        """What is known now; where nothing is yet, it is waited for until then."""
        self.wake()
        with self._changed:
            left_s = max(0.0, by_s - time.monotonic())
            self._changed.wait_for(lambda: self._look is not None, left_s)
            return self._look or Look(None, f"{self._name} has not answered yet")

    def _run(self) -> None:
        with ExitStack() as opened:
            while self._still_wanted():
                look = self._attempt(opened)
                self.known = look.value or self.known
                with self._changed:
                    self._look = look
                    self._changed.notify_all()
                time.sleep(EVERY_S)

    def _still_wanted(self) -> bool:
        with self._changed:
            if time.monotonic() > self._wanted_until:
                self._thread = self._read = None
            return self._thread is not None

    def _attempt(self, opened: ExitStack) -> Look[T]:
        try:
            if self._read is None:
                self._read = opened.enter_context(self._reading())
            return Look(self._read())
        except self._expected as error:
            return Look(None, str(error))
        except Exception as error:  # whatever it is, the thread has to live on
            name = type(error).__name__
            log.error("%s can't be read: %s", self._name, name)
            return Look(None, f"{self._name} can't be read ({name})")
