"""The consumer: a batch of records, merged, applied, and only then committed.

In: the records of the partitions that the group gave us. Out: calls of `apply` and
`dead_letter`, and committed offsets. It is handed all three partners and knows no
DynamoDB; a batch that can't be finished is kept, or dropped uncommitted.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Thread
from typing import Protocol, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from profiles import metrics, serializers, tracing
from profiles.logs import record_of
from profiles.records import DeadLetter, Headers, InvalidRecord, Record
from profiles.topics import PATIENCE_S, KafkaUnavailable, Topic, committed_now
from profiles.updates import MergedUpdate, Source, merge

log = logging.getLogger(__name__)

BATCH_RECORDS = 500
BATCH_S = 0.1
REQUESTS_TOLD = 20
JOIN_S = 20.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
GIVE_UP_S = 2.0
"""With the attempt under way and LEAVE_S, below the 10 s that SIGTERM may take."""

LEAVE_S = 2.0
WATCH_S = 2.0

T = TypeVar("T")


class StartOver(Exception):
    """The topic was recreated: drop everything uncommitted and begin anew."""


class RecordsMissing(Exception):
    """Records that were never applied are gone from the log: an operator decides."""


class MemberRefused(Exception):
    """Kafka will not have this consumer in the group: an operator has to act."""


class Outcome(Protocol):
    """What one attempt to apply came to."""

    @property
    def applied(self) -> int: ...
    @property
    def already(self) -> int: ...
    @property
    def remaining(self) -> list[MergedUpdate]: ...
    @property
    def trouble(self) -> str: ...


Apply = Callable[[Sequence[MergedUpdate]], Outcome]
PutDeadLetters = Callable[[Sequence[DeadLetter]], list[DeadLetter]]
OnCommit = Callable[[KafkaError | None, list[TopicPartition]], None]


@dataclass(slots=True)
class Batch:
    """The records of one consume() call: what is still to be done, and what to commit.

    `ends` maps each partition to the offset after its last record. `proven` tells
    that its records are of the topic that its sources name.
    """

    updates: list[MergedUpdate] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)
    headers: list[Headers] = field(default_factory=list, repr=False)
    applied: int = 0
    already: int = 0
    proven: bool = False

    @property
    def size(self) -> int:
        """What is left to be done."""
        return len(self.updates) + len(self.letters)

    def drop(self, partitions: set[int]) -> None:
        """Forget what another member now owns."""
        self.updates = [u for u in self.updates if u.source.partition not in partitions]
        self.letters = [
            letter
            for letter in self.letters
            if letter.record.source.partition not in partitions
        ]
        self.ends = {p: end for p, end in self.ends.items() if p not in partitions}


def read_batch(records: Iterable[Record]) -> Batch:
    """Decode records and merge them per patient; what is no update is a dead letter."""
    batch = Batch()
    decoded: list[MergedUpdate] = []
    for record in records:
        batch.headers.append(record.headers)
        batch.ends[record.source.partition] = record.offset + 1
        try:
            decoded.append(record.merged(serializers.decode(record)))
        except InvalidRecord as reason:
            batch.letters.append(DeadLetter(record, reason))
    batch.updates = merge(decoded)
    metrics.coalesced.inc(len(decoded) - len(batch.updates))
    return batch


class ProfileConsumer:
    """One member of the consumer group.

    `kafka` makes its Kafka consumer, given who is to hear of commits. `topic` tells
    the topic as it is now, `store` names the incarnation of the table that `apply`
    writes; `apply` and `dead_letter` return what is to be tried again.
    """

    def __init__(
        self,
        kafka: Callable[[OnCommit], Consumer],
        topic: Callable[[], Topic],
        store: str,
        apply: Apply,
        dead_letter: PutDeadLetters,
    ) -> None:
        self._kafka = kafka(self._on_commit)
        self._read_topic = topic
        self._apply = apply
        self._dead_letter = dead_letter
        self._topic = topic()
        self._mark = f"{self._topic.id} {store}"
        self._topic_read_at = time.monotonic()
        self._stop_by: float | None = None
        self._batch = Batch()
        self._backlog: list[Message] = []
        self._due: dict[int, int] = {}
        self._committing = False
        self._owned: set[int] = set()
        self._ended: set[int] = set()
        self._joined_by = time.monotonic() + JOIN_S
        self._waiting = False
        self._leaving = False

    def run(self, until: Callable[[], bool]) -> None:
        """Consume until `stop` or `until`, then leave the group."""
        try:
            self._kafka.subscribe(
                [self._topic.name],
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_revoke,
            )
            while self._stop_by is None and not until():
                self.turn()
        except KafkaUnavailable:
            if self._stop_by is None:
                raise
        finally:
            self._leave()

    def stop(self) -> None:
        """Finish the batch, or give it up after GIVE_UP_S; safe in a signal handler."""
        self._stop_by = self._stop_by or time.monotonic() + GIVE_UP_S

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._stop_by is not None

    @property
    def owned(self) -> frozenset[int]:
        """The partitions that the group has given us."""
        return frozenset(self._owned)

    @property
    def caught_up(self) -> bool:
        """Whether every owned partition is read to its end, and committed.

        Not before the group has given us some, or has had time to: Tansu never gives
        partitions again in a group that a member left while it joined.
        """
        joined = bool(self._owned) or time.monotonic() > self._joined_by
        settled = not self._due and not self._backlog
        return joined and settled and self._ended >= self._owned

    def turn(self) -> None:
        """One batch: read, settle, commit."""
        self._watch_topic()
        messages = self._backlog or self._kafka.consume(BATCH_RECORDS, BATCH_S)
        self._backlog = []
        self._batch = read_batch(self._records(messages))
        if self._batch.ends:
            with tracing.applying(self._batch.headers):
                self._settle()
        self._commit()

    # Settling a batch

    def _settle(self) -> None:
        started, pauses = time.monotonic(), _pauses()
        left = self._batch.size
        while not self._attempt():
            if self._stop_by is not None and time.monotonic() > self._stop_by:
                log.warning("stopped with a batch unfinished: it is not committed")
                return
            if self._batch.size < left:
                left, pauses = self._batch.size, _pauses()
            self._wait(next(pauses))
        self._due.update(self._batch.ends)
        self._resume()
        self._tell(self._batch, time.monotonic() - started)

    def _tell(self, batch: Batch, seconds: float) -> None:
        metrics.batch_records.observe(len(batch.headers))
        for partition, end in batch.ends.items():
            place = TopicPartition(self._topic.name, partition)
            _, high = self._kafka.get_watermark_offsets(place, cached=True)
            metrics.lag.labels(partition).set(max(0, high - end))
        requests = {tracing.request_id(carried) for carried in batch.headers} - {""}
        log.info(
            "batch: applied=%d already=%d seconds=%.3f next=%s requests=%s",
            batch.applied,
            batch.already,
            seconds,
            batch.ends,
            sorted(requests)[:REQUESTS_TOLD],
        )

    def _attempt(self) -> bool:
        """Try what is left of the batch once; whether it may be committed."""
        if not self._proven(self._batch):
            return False
        if self._batch.updates:
            self._apply_once(self._batch)
        if self._batch.letters:
            self._dead_letter_once(self._batch)
        return self._batch.size == 0

    def _apply_once(self, batch: Batch) -> None:
        outcome = self._apply(batch.updates)
        self._count(batch.updates, outcome)
        batch.updates = outcome.remaining
        batch.applied += outcome.applied
        batch.already += outcome.already
        if outcome.trouble:
            log.warning("waiting for the table: %s", outcome.trouble)

    def _count(self, updates: list[MergedUpdate], outcome: Outcome) -> None:
        metrics.applied.inc(outcome.applied)
        metrics.already.inc(outcome.already)
        metrics.retried.inc(len(outcome.remaining))
        remaining = {id(update) for update in outcome.remaining}
        now = time.time()
        for update in updates:
            if id(update) not in remaining:
                metrics.age.observe(max(0.0, now - update.timestamp_ms / 1000))

    def _dead_letter_once(self, batch: Batch) -> None:
        for letter in batch.letters:
            log.warning(
                "dead letter: partition=%d offset=%d %s",
                letter.record.source.partition,
                letter.record.offset,
                letter.reason,
            )
        tried = len(batch.letters)
        batch.letters = self._dead_letter(batch.letters)
        metrics.dead_lettered.inc(tried - len(batch.letters))
        if batch.letters:
            log.warning("waiting for the dead-letter topic to acknowledge")

    def _proven(self, batch: Batch) -> bool:
        """Whether the topic's id, read after the records, is the one they are given.

        A recreated topic counts its offsets from 0: under the old id its records
        would meet, or move, fences that are not theirs.
        """
        try:
            batch.proven = batch.proven or self._check_topic()
        except KafkaUnavailable as error:
            log.warning("waiting for Kafka: %s", error)
        return batch.proven

    def _wait(self, seconds: float) -> None:
        """Pass the time inside consume(), which keeps our membership alive.

        A rebalance may hand us partitions meanwhile, and their first records: those
        are kept for later.
        """
        if not self._waiting:
            self._waiting = True
            self._kafka.pause(self._kafka.assignment())
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            arrived = self._kafka.consume(BATCH_RECORDS, min(left, 0.5))
            self._backlog += arrived  # not in one: a revocation in there replaces it
            if self._stop_by is not None:
                return
        self._watch_topic()

    def _resume(self) -> None:
        """Go on with every partition: a pause outlives a revocation."""
        if self._waiting:
            self._waiting = False
            self._kafka.resume(self._kafka.assignment())

    def _commit(self) -> None:
        """Ask to commit what is settled; one request at a time, but for a last one.

        Its answer is not waited for: where the coordinator is silent, that would be
        for ever, and deaf to signals.
        """
        if not self._due or (self._committing and self._stop_by is None):
            return
        offsets = [
            TopicPartition(self._topic.name, partition, end, metadata=self._mark)
            for partition, end in self._due.items()
        ]
        self._committing = True
        try:
            self._kafka.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._on_commit(error.args[0], [])

    def _on_commit(
        self, error: KafkaError | None, places: Sequence[TopicPartition]
    ) -> None:
        """The answer, heard in consume(); what failed is due again in the next turn."""
        self._committing = False
        error = error or next((p.error for p in places if p.error), None)
        if error is not None:
            log.warning("offsets are not committed yet (%s)", error.name())
            return
        for place in places:
            if self._due.get(place.partition) == place.offset:
                del self._due[place.partition]

    def _leave(self) -> None:
        """Leave the group, and let a last commit end; where Kafka is silent, just go.

        The group then takes us for dead when our session ends.
        """
        self._leaving = True
        leaving = Thread(target=self._kafka.close, name="leave", daemon=True)
        leaving.start()
        leaving.join(LEAVE_S)

    # What Kafka tells

    def _records(self, messages: Iterable[Message]) -> Iterator[Record]:
        for message in messages:
            partition = _known(message.partition())
            if (error := message.error()) is not None:
                self._hear(error, partition, message)
                continue
            if partition not in self._owned:
                continue  # revoked while it was on its way to us
            self._ended.discard(partition)
            yield record_of(message, Source(self._topic.id, partition))

    def _hear(self, error: KafkaError, partition: int, message: Message) -> None:
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            self._ended.add(partition)
        elif code in _POSITION_LOST:
            self._patiently(self._check_topic)
            raise RecordsMissing(self._gap(partition, message))
        elif error.fatal() or code in _FORBIDDEN:
            raise MemberRefused(
                f"Kafka refuses this member of the group ({error.str()}): check its "
                "rights, and that no other member has its group.instance.id"
            )
        else:
            log.warning("Kafka: partition=%d %s", partition, error.name())

    def _gap(self, partition: int, message: Message) -> str:
        low, high = self._kafka.get_watermark_offsets(
            TopicPartition(self._topic.name, partition), timeout=5
        )
        return (
            f"partition {partition} of topic {self._topic.name} holds the offsets "
            f"{low} to {high}, and the group is to go on at {message.offset()}: the "
            "records between are gone from the log; see docs/operations.md"
        )

    def _watch_topic(self) -> None:
        if time.monotonic() - self._topic_read_at > WATCH_S:
            try:
                self._check_topic()
            except KafkaUnavailable as error:
                log.warning("waiting for Kafka: %s", error)

    def _check_topic(self) -> bool:
        self._topic_read_at = time.monotonic()
        if self._read_topic().id != self._topic.id:
            raise StartOver(f"topic {self._topic.name} was recreated")
        return True

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask Kafka, and sit out a short absence of it or of the topic."""
        patient_until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return ask()
            except KafkaUnavailable as error:
                if self._stop_by is not None or time.monotonic() > patient_until:
                    raise
                log.warning("waiting for Kafka: %s", error)
                time.sleep(1)

    def _on_assign(self, kafka: Consumer, partitions: list[TopicPartition]) -> None:
        if self._leaving:  # close() hands over what it had joined for
            return
        self._patiently(self._check_topic)
        places = self._patiently(lambda: committed_now(kafka, partitions))
        starts = [self._start(place) for place in places]
        kafka.incremental_assign(starts)
        if self._waiting:
            kafka.pause(starts)
        else:
            kafka.resume(starts)  # it was ours before, and paused when we lost it
        self._owned |= {start.partition for start in starts}
        log.info("assigned: %s", {start.partition: start.offset for start in starts})

    def _start(self, place: TopicPartition) -> TopicPartition:
        """Where to begin: at the beginning, unless committed for this topic and table.

        So a recreated topic is read from 0, and a table that was restored, or made
        anew under its old name, is filled again; the fences refuse what it has. An
        offset without a mark was set by an operator.
        """
        foreign = place.metadata not in (None, "", self._mark)
        begin = place.offset < 0 or foreign
        offset = OFFSET_BEGINNING if begin else place.offset
        return TopicPartition(place.topic, place.partition, offset)

    def _on_revoke(self, kafka: Consumer, partitions: list[TopicPartition]) -> None:
        gone = {partition.partition for partition in partitions}
        log.info("revoked: %s", sorted(gone))
        self._batch.drop(gone)
        self._backlog = [m for m in self._backlog if m.partition() not in gone]
        self._due = {p: end for p, end in self._due.items() if p not in gone}
        for partition in gone & self._owned:
            with suppress(KeyError):
                metrics.lag.remove(partition)
        self._owned -= gone
        self._ended -= gone


_POSITION_LOST = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}
_FORBIDDEN = {
    KafkaError._FATAL,  # of which `fatal()` does not tell
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
}


def _known(value: int | None) -> int:
    """A record's place; librdkafka leaves it out only where there is no record."""
    return -1 if value is None else value


def _pauses() -> Iterator[float]:
    """Seconds to wait before each next try: doubling, with jitter, bounded."""
    pause = FIRST_PAUSE_S
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 jitter, not a secret
        pause = min(2 * pause, LONGEST_PAUSE_S)
