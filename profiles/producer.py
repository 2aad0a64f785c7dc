"""The producer: puts an update on the topic and waits for the acknowledgement.

In: updates. Out: receipts, or `NotAcknowledged`. It is handed the functions that make
a Kafka producer and tell the topic; it knows no HTTP and no table.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Condition, Lock, Thread
from typing import Protocol

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as KafkaProducer

from profiles import records
from profiles.updates import Receipt, Source, Update

log = logging.getLogger(__name__)

ACKNOWLEDGE_TIMEOUT_S = 4.5
"""A little over the delivery timeout, so that librdkafka's own verdict comes first."""

STALLED_S = 0.5


class NotAcknowledged(Exception):
    """The update is on the topic zero times or once: sending it again is safe."""


class Topic(Protocol):
    """What the producer needs to know of the topic."""

    @property
    def name(self) -> str: ...
    @property
    def id(self) -> str: ...


class Publisher:
    """Publishes updates with one Kafka producer, and replaces it when it is broken.

    `capacity` bounds the updates that wait for Kafka at a time; it stays below the
    server's threads, so that a stalled Kafka leaves some to answer with.
    """

    def __init__(
        self,
        make: Callable[[], KafkaProducer],
        topic: Callable[[], Topic],
        capacity: int,
    ) -> None:
        self._make = make
        self._topic = topic
        self._gate = _Gate(capacity)
        self._lock = Lock()
        self._session: _Session | None = None

    def publish(self, update: Update) -> Receipt:
        """Put the update on the topic; returns once it is durable there.

        Blocks for at most ACKNOWLEDGE_TIMEOUT_S. Raises NotAcknowledged, and what
        `topic` raises where the topic is not to be written to.
        """
        topic = self._topic()
        key, value = records.key_of(update.patient_id), records.value_of(update)
        with self._gate.passage():
            message = self._deliver(topic.name, key, value)
        partition, offset = message.partition(), message.offset()
        if partition is None or offset is None or offset < 0:
            raise NotAcknowledged("Kafka holds the update but did not tell its offset")
        return Receipt(Source(topic.id, partition), offset)

    def _deliver(self, topic: str, key: bytes, value: bytes) -> Message:
        session = self._current()
        try:
            return session.deliver(topic, key, value)
        except _Broken as error:
            self._retire(session)
            raise NotAcknowledged(str(error)) from None

    def _current(self) -> _Session:
        with self._lock:
            if self._session is None:
                self._session = _Session(self._make())
            return self._session

    def _retire(self, session: _Session) -> None:
        with self._lock:
            if self._session is session:
                self._session = None
                session.retire()


class _Broken(Exception):
    """This producer may never deliver again."""


class _Session:
    """One Kafka producer, and the thread that polls it until it is retired."""

    def __init__(self, kafka: KafkaProducer) -> None:
        self._kafka = kafka
        self._retired = False
        Thread(target=self._poll, name="producer-poll", daemon=True).start()

    def deliver(self, topic: str, key: bytes, value: bytes) -> Message:
        reports: SimpleQueue[tuple[KafkaError | None, Message]] = SimpleQueue()
        try:
            self._kafka.produce(
                topic,
                value,
                key,
                on_delivery=lambda error, message: reports.put((error, message)),
            )
        except BufferError:
            raise NotAcknowledged("too many updates wait for Kafka") from None
        except KafkaException as error:
            raise _Broken(_describe(error.args[0])) from None
        try:
            failure, message = reports.get(timeout=ACKNOWLEDGE_TIMEOUT_S)
        except Empty:
            raise _Broken("Kafka did not acknowledge the update in time") from None
        if failure is not None:
            raise _failure(failure)
        return message

    def retire(self) -> None:
        """End once what is on its way has its answer, for others wait for theirs."""
        log.warning("the Kafka producer is replaced: it did not deliver")
        self._retired = True

    def _poll(self) -> None:
        while not self._retired or len(self._kafka):
            self._kafka.poll(0.2)


class _Gate:
    """Lets a bounded number through; refuses the rest once nothing moves."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._inside = 0
        self._moved_at = 0.0
        self._changed = Condition()

    @contextmanager
    def passage(self) -> Iterator[None]:
        self._enter()
        try:
            yield
            self._moved_at = time.monotonic()
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify()

    def _enter(self) -> None:
        with self._changed:
            if self._inside == 0:
                self._moved_at = time.monotonic()
            while self._inside >= self._capacity:
                patience_s = self._moved_at + STALLED_S - time.monotonic()
                if patience_s <= 0:
                    raise NotAcknowledged("too many updates wait for Kafka")
                self._changed.wait(patience_s)
            self._inside += 1


_REFUSALS = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
}
"""The broker's own word on this record: another producer would hear the same."""


def _failure(error: KafkaError) -> Exception:
    kind = NotAcknowledged if error.code() in _REFUSALS else _Broken
    return kind(_describe(error))


def _describe(error: KafkaError) -> str:
    return f"Kafka did not acknowledge the update ({error.name()})"
