"""The reader pool: consumers that read the log for a page, and are kept for the next.

In: the topic as it is now. Out: a LogReader, for as long as one page reads. A consumer
is closed when it was idle for a minute, when the topic is another one, and after any
failure: an outage leaves none behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from threading import Lock, Timer

from confluent_kafka import Consumer, KafkaException

from profiles.kafka import clients
from profiles.kafka.reader import LogReader
from profiles.kafka.topics import KafkaUnavailable, Topic, unavailable
from profiles.runtime.gates import Full, Gate

PAGE_PATIENCE_S = 3.0
"""How long Kafka may be silent while a page waits for it."""
IDLE_S = 60.0
SIZE = 2


@cache
def readers() -> ReaderPool:
    """This process's readers for pages."""
    return ReaderPool(clients.group_reader, SIZE)


@dataclass(frozen=True, slots=True)
class _Kept:
    """An idle consumer; what it knows of the topic is valid for this one only."""

    consumer: Consumer
    topic: Topic
    since: float


class ReaderPool:
    """At most `size` readers at a time; others wait while Kafka answers."""

    def __init__(self, make: Callable[[], Consumer], size: int) -> None:
        self._make = make
        self._gate = Gate(size)
        self._lock = Lock()
        self._idle: list[_Kept] = []
        self._timer: Timer | None = None

    @contextmanager
    def reader(self, topic: Topic) -> Iterator[LogReader]:
        """A reader of the topic's log; raises KafkaUnavailable where there is none."""
        try:
            with self._gate.passage() as moved:
                consumer = self._take(topic)
                try:
                    yield LogReader(consumer, topic, PAGE_PATIENCE_S)
                except BaseException:
                    consumer.close()
                    raise
                moved()
                self._keep(_Kept(consumer, topic, time.monotonic()))
        except Full:
            raise KafkaUnavailable("too many pages wait for Kafka") from None

    def _take(self, topic: Topic) -> Consumer:
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        if kept is not None and kept.topic == topic:
            return kept.consumer
        if kept is not None:
            kept.consumer.close()
        return self._connect(topic)

    def _connect(self, topic: Topic) -> Consumer:
        """A consumer that knows the leaders: left alone, it learns them in 0.5 s."""
        try:
            consumer = self._make()
        except KafkaException as error:
            name = error.args[0].name()
            raise KafkaUnavailable(f"no Kafka client can be made ({name})") from None
        try:
            consumer.list_topics(topic.name, PAGE_PATIENCE_S)
        except KafkaException as error:
            consumer.close()
            raise unavailable(error) from None
        return consumer

    def _keep(self, kept: _Kept) -> None:
        with self._lock:
            self._idle.append(kept)
            if self._timer is None:
                self._start_timer()

    def _start_timer(self) -> None:
        self._timer = Timer(IDLE_S, self._close_idle)
        self._timer.daemon = True
        self._timer.start()

    def _close_idle(self) -> None:
        """Close what was idle for IDLE_S; come back while something is left."""
        with self._lock:
            latest = time.monotonic() - IDLE_S
            closing = [kept for kept in self._idle if kept.since <= latest]
            self._idle = [kept for kept in self._idle if kept.since > latest]
            self._timer = None
            if self._idle:
                self._start_timer()
        for kept in closing:
            kept.consumer.close()
