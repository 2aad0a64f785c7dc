"""The producer: puts an update on the topic and waits for the acknowledgement.

In: updates. Out: receipts, or `NotAcknowledged`. It is handed the functions that make
a Kafka producer and tell the topic; it knows no HTTP and no table.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from queue import Empty, SimpleQueue
from threading import Lock, Thread

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as KafkaProducer

from profiles.core import records
from profiles.core.records import Headers, ProducerRecord
from profiles.core.updates import Receipt, Source
from profiles.kafka.topics import Topic
from profiles.runtime.gates import Full, Gate

log = logging.getLogger(__name__)

ANSWER_S = 4.2
"""In which a thread has its answer, queue included; Kafka's client has no deadline. The
rest of 5 s is for the wait for a thread, which we can't measure: where Kafka stalls, not
over the gate's patience."""

LOOK_S = 0.5
"""What a look at the topic may take of the rest."""

QUEUE_S = 2.0
CONNECT_S = 0.5


class NotAcknowledged(Exception):
    """The update is on the topic zero times or once: sending it again is safe."""


Verdict = Receipt | NotAcknowledged


class Publisher:
    """Publishes updates with one Kafka producer, and replaces it when it is broken.

    `topic` gives the topic as it was a moment ago, and `is_still` looks whether it has
    this id now. `capacity` bounds the updates that wait for Kafka at a time; it stays
    below the server's threads, so that a stalled Kafka leaves some to answer with.
    """

    def __init__(
        self,
        make: Callable[[], KafkaProducer],
        topic: Callable[[], Topic],
        is_still: Callable[[str, float], bool],
        capacity: int,
    ) -> None:
        self._make = make
        self._topic = topic
        self._is_still = is_still
        self._highest: dict[str, dict[int, int]] = {}
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
        delivery = _Delivery(topic.id, len(updates), self._highest_on(topic))
        reports = [_Report(delivery) for _ in updates]
        session = self._current(topic.name)
        while not session.send(topic.name, updates, headers, reports):
            session = self._current(topic.name)  # another thread retired that one
        delivery.wait(by)
        if delivery.broken:
            self._retire(session)
        else:
            moved()
        late = NotAcknowledged(_LATE)
        verdicts = [report.verdict or late for report in reports]
        if delivery.doubtful:
            left_s = max(LOOK_S, by - time.monotonic())
            if not self._is_still(topic.id, left_s):
                return [NotAcknowledged(_RECREATED)] * len(verdicts)
            delivery.prove(verdicts)
        return verdicts

    def _highest_on(self, topic: Topic) -> dict[int, int]:
        """The highest proven offset by partition; of another topic, none."""
        highest = self._highest.get(topic.id)
        if highest is None:
            highest = {}
            self._highest = {topic.id: highest}
        return highest

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
    """Updates that are sent together; over once Kafka has reported each of them.

    Doubtful where an offset is not above all that were acknowledged in its partition:
    the topic may have been recreated, and begun anew.
    """

    def __init__(self, topic_id: str, size: int, highest: dict[int, int]) -> None:
        self.broken = False  # whether the producer may never deliver again
        self.doubtful = False
        self._topic_id = topic_id
        self._highest = highest
        self._expected = size
        self._reported = 0
        self._done: SimpleQueue[None] = SimpleQueue()

    def receipt(self, message: Message) -> Verdict:
        """What Kafka acknowledged."""
        partition, offset = message.partition(), message.offset()
        if partition is None or offset is None or offset < 0:
            return NotAcknowledged("Kafka holds the update but did not tell its offset")
        if offset > self._highest.get(partition, offset):
            self._highest[partition] = offset
        else:  # the first one has none to be compared with
            self.doubtful = True
        return Receipt(_source(self._topic_id, partition), offset)

    def prove(self, verdicts: Iterable[Verdict]) -> None:
        """These are on the topic that was meant: what comes is compared with them."""
        for verdict in verdicts:
            if isinstance(verdict, Receipt):
                partition = verdict.source.partition
                known = self._highest.get(partition, -1)
                self._highest[partition] = max(known, verdict.offset)

    def refusal(self, error: KafkaError) -> NotAcknowledged:
        """What Kafka, or its client, did not take."""
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
        self.broken |= cause.code() not in _KEPT_AFTER
        for report in unsent:
            report.verdict = NotAcknowledged(_describe(cause))
        self._expected -= len(unsent)
        if self._reported == self._expected:
            self._done.put(None)

    def wait(self, by: float) -> None:
        """Until each that was sent is reported, or late: the producer then is broken."""
        try:
            self._done.get(timeout=max(0.0, by - time.monotonic()))
        except Empty:
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
    """One Kafka producer, and the thread that polls it until it is retired.

    What is sent keeps its sequence number, so that Kafka stores it once, however often
    the client has to send it. Nothing may raise the producer's epoch meanwhile, for
    then what is under way is sent again as something new: no delivery timeout, and
    nothing is sent after something was taken back (ADR 0009).
    """

    def __init__(self, kafka: KafkaProducer, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._sending = Lock()
        self._retired_at: float | None = None
        Thread(target=self._poll, name="producer-poll", daemon=True).start()

    def send(
        self,
        topic: str,
        updates: Sequence[ProducerRecord],
        headers: Headers,
        reports: list[_Report],
    ) -> bool:
        """Send the updates in their order; False, with none sent, once retired."""
        produce, carried = self._kafka.produce, list(headers)
        with self._sending:
            if self._retired_at is not None:
                return False
            for index, update in enumerate(updates):
                key, report = records.key_of(update.patient_id), reports[index]
                try:
                    # By place: naming the arguments takes a third longer.
                    produce(topic, update.value, key, _ANY, report, None, 0, carried)
                except (BufferError, KafkaException) as error:
                    report.delivery.stop(reports[index:], error)
                    break
        return True

    def retire(self) -> None:
        """Take back what was not sent yet; what was sent has still its time."""
        log.warning("the Kafka producer is replaced: it did not deliver")
        with self._sending:
            self._retired_at = time.monotonic()
            self._kafka.purge(in_queue=True, in_flight=False, blocking=False)

    def _poll(self) -> None:
        # Asked for the topic it connects at once; left alone, within a second.
        with suppress(KafkaException):
            self._kafka.list_topics(self._topic, CONNECT_S)
        while self._is_awaited():
            self._kafka.poll(0.2)
        self._kafka.purge()  # else closing it waits for what it could not deliver
        self._kafka.close()

    def _is_awaited(self) -> bool:
        """Whether an update may still come, or a thread wait for an answer."""
        if self._retired_at is None:
            return True
        return len(self._kafka) > 0 and time.monotonic() < self._retired_at + ANSWER_S


_source = lru_cache(1024)(Source)

_ANY = -1
"""Librdkafka's word for the partition that the key tells."""

_KEPT_AFTER = {KafkaError._QUEUE_FULL, KafkaError.MSG_SIZE_TOO_LARGE}
"""What the client refuses at once, for this update's sake. After any other error, and
after each that the broker reports, it sends no more (`enable.gapless.guarantee`)."""


_RECREATED = "the topic was recreated, or Kafka can't say whether it was"
_LATE = "Kafka did not acknowledge the update in time"


def _describe(error: KafkaError) -> str:
    if error.code() == KafkaError._QUEUE_FULL:
        return "too many updates wait for Kafka"
    if error.code() in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
        return _LATE  # this update, or one that was sent before it
    return f"Kafka did not acknowledge the update ({error.name()})"
