"""The producer: puts an update on the topic and waits for the acknowledgement.

In: updates. Out: receipts, or `NotAcknowledged`. It is handed the functions that make
a Kafka producer and tell the topic; it knows no HTTP and no table.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Protocol

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as KafkaProducer

from profiles import records
from profiles.gates import Full, Gate
from profiles.records import Headers, ProducerRecord
from profiles.updates import Receipt, Source

log = logging.getLogger(__name__)

ACKNOWLEDGE_TIMEOUT_S = 4.0
"""A little over the delivery timeout, so that librdkafka's own verdict comes first."""

ANSWER_S = 4.2
"""In which a thread has its answer, queue included. The rest of 5 s is for what no clock
of ours sees, the wait for a thread: where Kafka stalls, not over the gate's patience."""

QUEUE_S = 2.0
CONNECT_S = 0.5


class NotAcknowledged(Exception):
    """The update is on the topic zero times or once: sending it again is safe."""


Verdict = Receipt | NotAcknowledged


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
        self._gate = Gate(capacity)
        self._lock = Lock()
        self._session: _Session | None = None

    def connect(self) -> None:
        """Have a Kafka producer before the first update comes; raises as `publish`."""
        self._current(self._topic().name)

    def publish(self, update: ProducerRecord) -> Receipt:
        """Put the update on the topic; returns once it is durable there.

        Blocks for at most ANSWER_S. Raises NotAcknowledged, and what
        `topic` raises where the topic is not to be written to.
        """
        [verdict] = self.publish_all([update])
        if isinstance(verdict, NotAcknowledged):
            raise verdict
        return verdict

    def publish_all(
        self, updates: Sequence[ProducerRecord], headers: Headers = ()
    ) -> list[Verdict]:
        """As `publish`, for many at once: a receipt or a NotAcknowledged for each.

        All are on their way together, so a refused one may stand before accepted ones
        of its patient: its client sends them again from the first refused on.
        """
        by = time.monotonic() + ANSWER_S
        topic = self._topic()
        try:
            with self._gate.passage(QUEUE_S) as moved:
                return self._deliver(topic, updates, headers, by, moved)
        except Full:
            raise NotAcknowledged("too many updates wait for Kafka") from None

    def _deliver(
        self,
        topic: Topic,
        updates: Sequence[ProducerRecord],
        headers: Headers,
        by: float,
        moved: Callable[[], None],
    ) -> list[Verdict]:
        session = self._current(topic.name)
        delivery = session.deliver(topic, updates, headers, by)
        if delivery.broken:
            self._retire(session)
        else:
            moved()
        return delivery.verdicts

    def _current(self, topic: str) -> _Session:
        with self._lock:
            if self._session is None:
                self._session = self._start(topic)
            return self._session

    def _start(self, topic: str) -> _Session:
        try:
            return _Session(self._make(), topic)
        except KafkaException as error:
            raise NotAcknowledged(
                f"no Kafka producer can be made ({error.args[0].name()})"
            ) from None

    def _retire(self, session: _Session) -> None:
        with self._lock:
            if self._session is session:
                self._session = None
                session.retire()


class _Delivery:
    """Updates that are on their way together; over once Kafka has told of each."""

    def __init__(self, topic_id: str, size: int) -> None:
        self.broken = False  # whether the producer may never deliver again
        self.verdicts: list[Verdict] = []
        self._topic_id = topic_id
        self._expected = size
        self._reported = 0
        self._done: SimpleQueue[None] = SimpleQueue()

    def receipt(self, message: Message) -> Verdict:
        """What Kafka acknowledged."""
        partition, offset = message.partition(), message.offset()
        if partition is None or offset is None or offset < 0:
            return NotAcknowledged("Kafka holds the update but did not tell its offset")
        return Receipt(_source(self._topic_id, partition), offset)

    def refusal(self, error: KafkaError) -> NotAcknowledged:
        """What Kafka, or its client, did not take."""
        if error.code() not in _REFUSALS:  # set only: two threads come here
            self.broken = True
        return NotAcknowledged(_describe(error))

    def count(self) -> None:
        """One more was told of; called by the one thread that polls."""
        self._reported += 1
        if self._reported == self._expected:
            self._done.put(None)

    def stop(self, unsent: list[_Report], error: BufferError | KafkaException) -> None:
        """The client took none from here on."""
        full = isinstance(error, BufferError)
        cause = KafkaError(KafkaError._QUEUE_FULL) if full else error.args[0]
        refusal = self.refusal(cause)
        for report in unsent:
            report.verdict = refusal
        self._expected -= len(unsent)
        if self._reported == self._expected:
            self._done.put(None)

    def wait(self, by: float) -> None:
        """Until each that was sent is told of, or late.

        A producer that had all its time and did not tell of all is taken for broken.
        """
        left_s = max(0.0, by - time.monotonic())
        try:
            self._done.get(timeout=min(ACKNOWLEDGE_TIMEOUT_S, left_s))
        except Empty:
            if left_s >= ACKNOWLEDGE_TIMEOUT_S:
                self.broken = True


class _Report(msgspec.Struct, gc=False):
    """What Kafka's client calls with its verdict on one update.

    No function bound to an index: that takes half as long again to call. The delivery
    must not refer to it: the collector does not look here for cycles.
    """

    delivery: _Delivery
    verdict: Verdict | None = None

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        delivery = self.delivery
        self.verdict = (
            delivery.receipt(message) if error is None else delivery.refusal(error)
        )
        delivery.count()


class _Session:
    """One Kafka producer, and the thread that polls it until it is retired."""

    def __init__(self, kafka: KafkaProducer, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._retired = False
        Thread(target=self._poll, name="producer-poll", daemon=True).start()

    def deliver(
        self,
        topic: Topic,
        updates: Sequence[ProducerRecord],
        headers: Headers,
        by: float,
    ) -> _Delivery:
        """Send the updates in their order, and wait for the verdicts."""
        delivery = _Delivery(topic.id, len(updates))
        reports = [_Report(delivery) for _ in updates]
        produce, carried = self._kafka.produce, list(headers)
        for index, update in enumerate(updates):
            key, report = records.key_of(update.patient_id), reports[index]
            try:
                # By place: naming the arguments takes a third longer.
                produce(topic.name, update.value, key, _ANY, report, None, 0, carried)
            except (BufferError, KafkaException) as error:
                delivery.stop(reports[index:], error)
                break
        delivery.wait(by)
        late = NotAcknowledged("Kafka did not acknowledge the update in time")
        delivery.verdicts = [report.verdict or late for report in reports]
        return delivery

    def retire(self) -> None:
        """End once what is on its way has its answer, for others wait for theirs."""
        log.warning("the Kafka producer is replaced: it did not deliver")
        self._retired = True

    def _poll(self) -> None:
        # Asked for the topic it connects at once; left alone, within a second.
        with suppress(KafkaException):
            self._kafka.list_topics(self._topic, CONNECT_S)
        while not self._retired or len(self._kafka):
            self._kafka.poll(0.2)


_source = lru_cache(1024)(Source)

_ANY = -1
"""Librdkafka's word for the partition that the key tells."""

_REFUSALS = {
    KafkaError._QUEUE_FULL,
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
}
"""What another producer would hear too: the broker's word on the record, or that the
queue to it is full."""


def _describe(error: KafkaError) -> str:
    if error.code() == KafkaError._QUEUE_FULL:
        return "too many updates wait for Kafka"
    return f"Kafka did not acknowledge the update ({error.name()})"
