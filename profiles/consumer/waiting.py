"""Waiting: how long for Kafka and for the table, and until when after a stop.

Out: pauses between attempts, the answer of a Kafka that was away, the time that is left.
Knows no batch.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from profiles.kafka.groups import RESTART_S
from profiles.kafka.topics import KafkaUnavailable

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
GIVE_UP_S = 2.0
"""With the attempt under way and LEAVE_S, below the 10 s that SIGTERM may take."""

T = TypeVar("T")


class Stop:
    """A request to stop. The batch that is being written has GIVE_UP_S from then on."""

    def __init__(self) -> None:
        self._deadline: float | None = None

    def request(self) -> None:
        """Safe in a signal handler."""
        self._deadline = self._deadline or time.monotonic() + GIVE_UP_S

    @property
    def is_requested(self) -> bool:
        """Whether to begin nothing more."""
        return self._deadline is not None

    @property
    def is_overdue(self) -> bool:
        """Whether to give up the batch that is being written."""
        return self._deadline is not None and time.monotonic() > self._deadline


def patiently(query: Callable[[], T], stop: Stop) -> T:
    """The answer to a query of Kafka; waits out a short absence of Kafka or the topic.

    Raises KafkaUnavailable after RESTART_S, or after a stop.
    """
    deadline = time.monotonic() + RESTART_S
    while True:
        try:
            return query()
        except KafkaUnavailable as error:
            if stop.is_requested or time.monotonic() > deadline:
                raise
            log.warning("waiting for Kafka: %s", error)
            time.sleep(1)


def pauses() -> Iterator[float]:
    """Seconds to wait before each next attempt: doubling, with jitter, bounded."""
    pause = FIRST_PAUSE_S
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 jitter, not a secret
        pause = min(2 * pause, LONGEST_PAUSE_S)
