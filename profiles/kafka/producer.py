"""The producer: puts updates on the topic and waits for the acknowledgements.

In: updates. Out: receipts, or `NotAcknowledged`. A thread waits (`publish_all`), or an
event loop (`publish_awaited`); both decide by the same functions. It is handed the
functions that make a Kafka producer and read the topic. It knows no HTTP and no table.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import NamedTuple

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as KafkaProducer

from profiles.core import records
from profiles.core.records import Headers, ProducerRecord
from profiles.core.updates import Receipt, Source
from profiles.kafka.topics import Topic
from profiles.runtime.gates import Budget, Full, Gate

log = logging.getLogger(__name__)

ANSWER_S = 4.2
"""The time for an answer, queue included; Kafka's client has no deadline. The rest of 5 s
is for waiting for a thread, which we can't measure: if Kafka stalls, at most the gate's
patience."""

LOOK_S = 0.5
"""How much of the rest a read of the topic's id may take."""

QUEUE_S = 2.0
CONNECT_S = 0.5
RECENT_S = 60.0
"""For so long after a read, `topic` answers at once: it is read in the background."""

UPDATES = 100_000
"""Most updates under way, however many requests they come in. Kafka's client holds as many."""


class NotAcknowledged(Exception):
    """The update is on the topic zero times or once: sending it again is safe."""


Verdict = Receipt | NotAcknowledged


class Publisher:
    """Publishes updates with one Kafka producer, and replaces it when it is broken.

    `topic` returns the topic as it was a moment ago. `is_still` reads whether it has this
    id now. `capacity` bounds the threads that wait for Kafka at a time. It stays below the
    server's threads, so that some can answer while Kafka is stalled.
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
        self._budget = Budget(UPDATES)
        self._lock = Lock()
        self._session: _Session | None = None
        self._arrivals: _Arrivals | None = None
        self._topic_read_at = -math.inf
        self._looks: dict[str, asyncio.Future[bool]] = {}
        self._looking = asyncio.Lock()

    def connect(self) -> None:
        """Make a Kafka producer before the first update comes; raises as `publish`."""
        self._current(self._topic().name)

    def publish(self, update: ProducerRecord) -> Receipt:
        """Put the update on the topic; returns once it is durable there.

        Blocks for at most ANSWER_S. Raises NotAcknowledged, and what `topic` raises if the
        topic is not to be written to.
        """
        [verdict] = self.publish_all([update])
        if isinstance(verdict, NotAcknowledged):
            raise verdict
        return verdict

    def publish_all(
        self, updates: Sequence[ProducerRecord], headers: Headers = ()
    ) -> list[Verdict]:
        """As `publish`, for many at once: a receipt or a NotAcknowledged for each.

        All are sent together. So a refused one may precede accepted ones of its patient:
        the client sends them again from the first refused one on.
        """
        by = time.monotonic() + ANSWER_S
        topic = self._topic()
        try:
            with (
                self._gate.passage(QUEUE_S) as moved,
                self._budget.share(len(updates)),
            ):
                ended: SimpleQueue[None] = SimpleQueue()
                sent = self._send(topic, updates, headers, partial(ended.put, None))
                verdicts = self._settle(sent, _is_in_time(ended, by))
                if not sent.delivery.broken:
                    moved()
                if sent.delivery.doubtful:
                    left_s = max(LOOK_S, by - time.monotonic())
                    is_still = self._is_still(topic.id, left_s)
                    return sent.delivery.proven(verdicts, is_still)
                return verdicts
        except Full:
            raise NotAcknowledged(_FULL) from None

    async def publish_awaited(
        self, updates: Sequence[ProducerRecord], headers: Headers = ()
    ) -> list[Verdict]:
        """As `publish_all`, for an event loop: no thread waits. One loop per publisher."""
        by = time.monotonic() + ANSWER_S
        topic = await self._topic_awaited()
        if not self._budget.take(len(updates)):
            try:
                await self._budget.queue_for(len(updates), QUEUE_S)
            except Full:
                raise NotAcknowledged(_FULL) from None
        try:
            arrivals = self._arrivals or self._await_arrivals()
            waiting, late = arrivals.expect(by)
            sent = self._send(topic, updates, headers, partial(arrivals.end, waiting))
            arrivals.end_all()  # if the client refused the updates, no report wakes us
            in_time = await waiting
            late.cancel()
            verdicts = self._settle(sent, in_time)
            if sent.delivery.doubtful:
                is_still = await self._is_still_awaited(topic.id, by)
                return sent.delivery.proven(verdicts, is_still)
            return verdicts
        finally:
            self._budget.give_back(len(updates))

    async def _topic_awaited(self) -> Topic:
        """The topic. The first read after a while may take long: a thread does it."""
        read_at, self._topic_read_at = self._topic_read_at, time.monotonic()
        if self._topic_read_at < read_at + RECENT_S:
            return self._topic()
        self._topic_read_at = read_at  # the requests that come meanwhile wait too
        try:
            return await asyncio.to_thread(self._topic)
        finally:
            self._topic_read_at = time.monotonic()

    async def _is_still_awaited(self, topic_id: str, by: float) -> bool:
        """As `is_still`, read in a thread: once for all that wait for it to begin."""
        look = self._looks.get(topic_id)
        if look is None:
            look = self._looks[topic_id] = asyncio.ensure_future(self._look(topic_id))
        left_s = max(LOOK_S, by - time.monotonic())
        try:
            return await asyncio.wait_for(asyncio.shield(look), left_s)
        except TimeoutError:
            return False

    async def _look(self, topic_id: str) -> bool:
        async with self._looking:
            del self._looks[topic_id]  # whoever comes from now on needs a later look
            return await asyncio.to_thread(self._is_still, topic_id, ANSWER_S)

    def _send(
        self,
        topic: Topic,
        updates: Sequence[ProducerRecord],
        headers: Headers,
        end: Callable[[], None],
    ) -> _Sent:
        """Hand the updates to the producer; `end` is called once all are reported."""
        delivery = _Delivery(topic.id, len(updates), self._highest_on(topic), end)
        reports = [_Report(delivery) for _ in updates]
        session = self._current(topic.name)
        while not session.send(topic.name, updates, headers, reports):
            session = self._current(topic.name)  # another request retired the session
        return _Sent(session, delivery, reports)

    def _settle(self, sent: _Sent, in_time: bool) -> list[Verdict]:
        """The verdicts, once all updates are reported, or late. A producer that did not
        deliver is retired.
        """
        delivery = sent.delivery
        delivery.broken |= not in_time
        if delivery.broken:
            self._retire(sent.session)
        late = NotAcknowledged(_LATE)
        return [report.verdict or late for report in sent.reports]

    def _await_arrivals(self) -> _Arrivals:
        self._arrivals = _Arrivals(asyncio.get_running_loop())
        return self._arrivals

    def _after_poll(self) -> None:
        if self._arrivals is not None:
            self._arrivals.wake()

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
            return _Session(self._make(), topic, self._after_poll)
        except KafkaException as error:
            raise NotAcknowledged(
                f"no Kafka producer can be made ({error.args[0].name()})"
            ) from None

    def _retire(self, session: _Session) -> None:
        with self._lock:
            if self._session is session:
                self._session = None
                session.retire()


class _Arrivals:
    """The waits of an event loop, which a burst of delivery reports ends together."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ended: deque[asyncio.Future[bool]] = deque()

    def expect(self, by: float) -> tuple[asyncio.Future[bool], asyncio.TimerHandle]:
        """A wait that `end` ends with True, and its deadline, which does it with False."""
        waiting: asyncio.Future[bool] = self._loop.create_future()
        left_s = by - time.monotonic()
        return waiting, self._loop.call_later(left_s, _end, waiting, False)

    def end(self, waiting: asyncio.Future[bool]) -> None:
        """All updates of this wait are reported; called in any thread."""
        self._ended.append(waiting)

    def wake(self) -> None:
        """Wake the loop once for all waits that ended; called after each poll."""
        if self._ended:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self.end_all)

    def end_all(self) -> None:
        """End the waits whose updates are all reported; called on the loop."""
        while self._ended:
            _end(self._ended.popleft(), True)


def _end(waiting: asyncio.Future[bool], in_time: bool) -> None:
    if not waiting.done():
        waiting.set_result(in_time)


def _is_in_time(ended: SimpleQueue[None], by: float) -> bool:
    """Wait for the end, in a thread; False if the deadline comes first."""
    try:
        ended.get(timeout=max(0.0, by - time.monotonic()))
    except Empty:
        return False
    return True


class _Delivery:
    """Updates that are sent together. It ends once Kafka has reported each of them.

    It is doubtful if an offset is not above all that were acknowledged in its partition:
    the topic may have been recreated, and its offsets may have begun again.
    """

    def __init__(
        self,
        topic_id: str,
        size: int,
        highest: dict[int, int],
        end: Callable[[], None],
    ) -> None:
        self.broken = False  # whether the producer may never deliver again
        self.doubtful = False
        self._topic_id = topic_id
        self._highest = highest
        self._expected = size
        self._reported = 0
        self._end = end

    def receipt(self, message: Message) -> Verdict:
        """What Kafka acknowledged."""
        partition, offset = message.partition(), message.offset()
        if partition is None or offset is None or offset < 0:
            return NotAcknowledged(
                "Kafka holds the update but did not report its offset"
            )
        if offset > self._highest.get(partition, offset):
            self._highest[partition] = offset
        else:  # also the first one, which has none to compare with
            self.doubtful = True
        return Receipt(_source(self._topic_id, partition), offset)

    def proven(self, verdicts: list[Verdict], is_still: bool) -> list[Verdict]:
        """The verdicts, if the topic is still the same; later offsets are compared with
        them. Otherwise no offset is a receipt.
        """
        if not is_still:
            return [NotAcknowledged(_RECREATED)] * len(verdicts)
        for verdict in verdicts:
            if isinstance(verdict, Receipt):
                partition = verdict.source.partition
                known = self._highest.get(partition, -1)
                self._highest[partition] = max(known, verdict.offset)
        return verdicts

    def refusal(self, error: KafkaError) -> NotAcknowledged:
        """What Kafka or its client refused."""
        self.broken = True
        return NotAcknowledged(_describe(error))

    def count(self) -> None:
        """Another update is reported; called by the one thread that polls."""
        self._reported += 1
        if self._reported == self._expected:
            self._end()

    def stop(self, unsent: list[_Report], error: BufferError | KafkaException) -> None:
        """The client took none of these."""
        full = isinstance(error, BufferError)
        cause = KafkaError(KafkaError._QUEUE_FULL) if full else error.args[0]
        self.broken |= cause.code() not in _KEPT_AFTER
        for report in unsent:
            report.verdict = NotAcknowledged(_describe(cause))
        self._expected -= len(unsent)
        if self._reported == self._expected:
            self._end()


class _Report(msgspec.Struct, gc=False):
    """What Kafka's client calls with its verdict on one update.

    A function bound to an index would take half as long again to call. The delivery must
    not refer to its reports: the collector finds no cycles through them.
    """

    delivery: _Delivery
    verdict: Verdict | None = None

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        delivery = self.delivery
        self.verdict = (
            delivery.receipt(message) if error is None else delivery.refusal(error)
        )
        delivery.count()


class _Sent(NamedTuple):
    """Updates under way: which producer has them, and what it reported so far."""

    session: _Session
    delivery: _Delivery
    reports: list[_Report]


class _Session:
    """One Kafka producer, and the thread that polls it until it is retired.

    What is sent keeps its sequence number, so that Kafka stores it once, however often
    the client sends it. Nothing may raise the producer's epoch meanwhile: what is under
    way would be sent again under new numbers. So there is no delivery timeout, and
    nothing is sent after something was taken back (ADR 0009). `after_poll` is called
    after each burst of delivery reports, in the thread that polls.
    """

    def __init__(
        self, kafka: KafkaProducer, topic: str, after_poll: Callable[[], None]
    ) -> None:
        self._kafka = kafka
        self._topic = topic
        self._after_poll = after_poll
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
                    # Positional: named arguments take a third longer.
                    produce(topic, update.value, key, _ANY, report, None, 0, carried)
                except (BufferError, KafkaException) as error:
                    report.delivery.stop(reports[index:], error)
                    break
        return True

    def retire(self) -> None:
        """Take back what was not sent yet. What was sent keeps its time."""
        log.warning("the Kafka producer is replaced: it did not deliver")
        with self._sending:
            self._retired_at = time.monotonic()
            self._kafka.purge(in_queue=True, in_flight=False, blocking=False)

    def _poll(self) -> None:
        # A question about the topic connects it at once. By itself it takes a second.
        with suppress(KafkaException):
            self._kafka.list_topics(self._topic, CONNECT_S)
        while self._is_awaited():
            self._kafka.poll(0.2)
            self._after_poll()
        self._kafka.purge()  # or close() would wait for what was not delivered
        self._kafka.close()

    def _is_awaited(self) -> bool:
        """Whether an update may still come, or a request wait for an answer."""
        if self._retired_at is None:
            return True
        return len(self._kafka) > 0 and time.monotonic() < self._retired_at + ANSWER_S


_source = lru_cache(1024)(Source)

_ANY = -1
"""Librdkafka's value for: the key decides the partition."""

_KEPT_AFTER = {KafkaError._QUEUE_FULL, KafkaError.MSG_SIZE_TOO_LARGE}
"""What the client refuses at once, because of this update. After any other error, and
after each that the broker reports, it sends no more (`enable.gapless.guarantee`)."""

_RECREATED = "the topic was recreated, or Kafka can't say whether it was"
_LATE = "Kafka did not acknowledge the update in time"
_FULL = "too many updates wait for Kafka"


def _describe(error: KafkaError) -> str:
    if error.code() == KafkaError._QUEUE_FULL:
        return _FULL
    if error.code() in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
        return _LATE  # this update, or one that was sent before it
    return f"Kafka did not acknowledge the update ({error.name()})"
