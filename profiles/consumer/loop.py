"""The consumer: a batch of records, merged, applied, and only then committed.

In: the records of the partitions that the group gave us. Out: calls of `apply` and
`dead_letter`, and committed offsets. It is handed all three partners and knows no
DynamoDB; a batch that can't be finished is kept, or dropped uncommitted.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from threading import Thread
from typing import Protocol, TypeVar

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from profiles.consumer.assignment import Assignment, PositionLost, known
from profiles.consumer.batches import Batch, read_batch
from profiles.core.records import DeadLetter, Record
from profiles.core.updates import Incarnation, MergedUpdate, Source
from profiles.kafka.groups import RESTART_S, Group, committed_now
from profiles.kafka.reader import record_of
from profiles.kafka.topics import KafkaUnavailable, Topic
from profiles.runtime import metrics, tracing

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
STORE_S = 1.0
"""A table is not made anew, or restored under its name, in so short a time."""

ASTRAY_S = 30.0
"""How long the group may be without us, while its coordinator answers.

librdkafka reconnects at least every 10 s (`reconnect.backoff.max.ms`), and asks to join
within a second then. From there on we are a member, however long the rebalance takes.
"""

T = TypeVar("T")


class StartOver(Exception):
    """Topic or table is another one, or the group has lost us: begin anew.

    Everything uncommitted is dropped.
    """


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
    @property
    def unknown(self) -> Collection[Incarnation]: ...


Apply = Callable[
    [Sequence[MergedUpdate], Incarnation, Collection[Incarnation]], Outcome
]
PutDeadLetters = Callable[[Sequence[DeadLetter]], list[DeadLetter]]
OnCommit = Callable[[KafkaError | None, list[TopicPartition]], None]


class ProfileConsumer:
    """One member of the consumer group.

    `kafka` makes its Kafka consumer, given who is to hear of commits. `topic` tells
    the topic as it is now, whose keys are placed by `partitions`; `group` tells who is
    in the group. `store` names the incarnation of the table that `apply`
    writes, and `read_store` tells it anew (None: not now). `apply` and `dead_letter`
    return what is to be tried again; `apply` is also told our incarnation of topic and
    table, and the former ones whose items it may take over.
    """

    def __init__(
        self,
        kafka: Callable[[OnCommit], Consumer],
        topic: Callable[[], Topic],
        partitions: int,
        group: Callable[[], Group],
        store: str,
        read_store: Callable[[], str | None],
        apply: Apply,
        dead_letter: PutDeadLetters,
    ) -> None:
        self._kafka = kafka(self._on_commit)
        self._read_topic = topic
        self._partitions = partitions
        self._read_group = group
        self._apply = apply
        self._dead_letter = dead_letter
        self._topic = topic()
        self._store = store
        self._read_store = read_store
        self._incarnation = Incarnation(self._topic.id, store)
        self._former: set[Incarnation] = set()
        self._unknown: set[Incarnation] = set()
        self._assignment = Assignment(self._kafka, self._topic, store)
        self._watched_at = self._store_read_at = time.monotonic()
        self._astray_since: float | None = None
        self._is_lost = False
        self._stop_by: float | None = None
        self._batch = Batch()
        self._backlog: list[Message] = []
        self._committing = False
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
    def owned(self) -> frozenset[int]:
        """The partitions that the group has given us."""
        return self._assignment.owned

    @property
    def caught_up(self) -> bool:
        """Whether every owned partition is read to its end, and committed.

        Not before the group has given us some, or has had time to: Tansu never gives
        partitions again in a group that a member left while it joined.
        """
        joined = bool(self.owned) or time.monotonic() > self._joined_by
        return joined and self._assignment.settled and not self._backlog

    def turn(self) -> None:
        """One batch: read, settle, commit."""
        self._watch()
        messages = self._backlog or self._kafka.consume(BATCH_RECORDS, BATCH_S)
        self._backlog = []
        self._batch = self._read(messages)
        if self._batch.ends:
            with tracing.applying(self._batch.headers):
                self._settle()
        self._commit()

    # Settling a batch

    def _settle(self) -> None:
        started, pauses = time.monotonic(), _pauses()
        left = self._batch.size
        while not self._attempt():
            if self._is_late():
                log.warning("stopped with a batch unfinished: it is not committed")
                return
            if self._batch.size < left:
                left, pauses = self._batch.size, _pauses()
            self._wait(next(pauses))
        self._assignment.settle(self._batch.ends)
        self._resume()
        self._tell(self._batch, time.monotonic() - started)

    def _tell(self, batch: Batch, seconds: float) -> None:
        metrics.batch_records.observe(len(batch.headers))
        for partition in batch.ends:
            metrics.lag.labels(partition).set(self._assignment.lag(partition))
        requests = {tracing.request_id(carried) for carried in batch.headers} - {""}
        log.info(
            "batch: applied=%d already=%d seconds=%.3f next=%s requests=%s",
            batch.applied,
            batch.already,
            seconds,
            batch.ends,
            sorted(requests)[:REQUESTS_TOLD],
        )

    def _tell_lags(self) -> None:
        """While we wait, nothing is fetched that would tell how the lag grows."""
        with suppress(KafkaUnavailable):  # what was told last stays
            for partition in self.owned:
                lag = self._assignment.lag(partition, ask=True)
                metrics.lag.labels(partition).set(lag)

    def _attempt(self) -> bool:
        """Try what is left of the batch once; whether it may be committed."""
        if not (self._proven(self._batch) and self._is_same_store()):
            return False
        self._add_former()
        if self._batch.updates:
            self._apply_once(self._batch)
        if self._batch.letters and not self._is_late():
            self._dead_letter_once(self._batch)
        return self._batch.size == 0

    def _is_late(self) -> bool:
        """Whether we were told to stop, and have no more time for this batch."""
        return self._stop_by is not None and time.monotonic() > self._stop_by

    def _apply_once(self, batch: Batch) -> None:
        outcome = self._apply(batch.updates, self._incarnation, self._former)
        self._count(batch.updates, outcome)
        batch.updates = outcome.remaining
        batch.applied += outcome.applied
        batch.already += outcome.already
        if outcome.trouble:
            log.warning("waiting for the table: %s", outcome.trouble)
        if outcome.unknown:
            self._unknown |= {*outcome.unknown}
            batch.proven, self._store_read_at = False, -math.inf

    def _add_former(self) -> None:
        """Topic and table were read anew after we saw these, and are still ours.

        No id is given twice, so these are older than we are: were one of them newer,
        we would not be what is read now.
        """
        for former in sorted(self._unknown, key=str):
            log.info("taking over the items that are marked %s", former)
        self._former |= self._unknown
        self._unknown = set()

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
        tried = _by_code(batch.letters)
        batch.letters = self._dead_letter(batch.letters)
        for code, kept in (tried - _by_code(batch.letters)).items():
            metrics.dead_lettered.labels(code).inc(kept)
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

    def _is_same_store(self) -> bool:
        """Whether the table is still the one that our offsets are marked with.

        One that was made anew under its name has none of what was written before,
        and a first write would fence that out.
        """
        if time.monotonic() - self._store_read_at < STORE_S:
            return True
        store = self._read_store()
        if store is None:
            log.warning("waiting for the table: it does not tell which one it is")
            return False
        if store != self._store:
            raise StartOver("the table was replaced")
        self._store_read_at = time.monotonic()
        return True

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
            # Not in one: a revocation in there replaces the backlog.
            self._backlog += [m for m in arrived if self._concerns_us(m)]
            if self._stop_by is not None:
                return
        self._watch()

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
        due = self._assignment.due()
        if not due or (self._committing and self._stop_by is None):
            return
        self._committing = True
        try:
            self._kafka.commit(offsets=due, asynchronous=True)
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
        self._assignment.committed(places)

    def _leave(self) -> None:
        """Leave the group, and let a last commit end; where Kafka is silent, just go.

        The group then takes us for dead when our session ends.
        """
        self._leaving = True
        leave = self._drop if self._is_lost else self._kafka.close
        leaving = Thread(target=leave, name="leave", daemon=True)
        leaving.start()
        leaving.join(LEAVE_S)

    def _drop(self) -> None:
        """Have the client destroyed as nobody refers to it any more.

        Where it has nobody to ask, its close() may wait for ever for the answer to a
        commit, with all its threads; and there is no group to leave.
        """
        self._forget_lags(self.owned)
        del self._kafka, self._assignment

    # What Kafka tells

    def _read(self, messages: Iterable[Message]) -> Batch:
        try:
            return read_batch(self._records(messages), self._partitions)
        except PositionLost as lost:
            self._patiently(self._check_topic)  # of a recreated one nothing is missing
            raise RecordsMissing(self._assignment.gap(lost)) from None

    def _records(self, messages: Iterable[Message]) -> Iterator[Record]:
        for message in messages:
            if (error := message.error()) is not None:
                self._hear(error, message)
            elif self._assignment.is_new(message):
                source = Source(self._topic.id, known(message.partition()))
                yield record_of(message, source)

    def _concerns_us(self, message: Message) -> bool:
        """Whether it is of a partition of ours, or trouble of any kind."""
        error = message.error()
        is_of_a_partition = error is None or error.code() == KafkaError._PARTITION_EOF
        return not is_of_a_partition or message.partition() in self.owned

    def _hear(self, error: KafkaError, message: Message) -> None:
        code, partition = error.code(), known(message.partition())
        if code == KafkaError._PARTITION_EOF:
            offset = known(message.offset())
            self._patiently(lambda: self._assignment.meet_end(partition, offset))
        elif code in _POSITION_LOST:
            raise PositionLost(partition, known(message.offset()))
        elif error.fatal() or code in _FORBIDDEN:
            raise MemberRefused(
                f"Kafka refuses this member of the group ({error.str()}): check its "
                "rights, and that no other member has its group.instance.id"
            )
        else:
            log.warning("Kafka: partition=%d %s", partition, error.name())

    def _watch(self) -> None:
        """Look now and then whether topic and group are what they were."""
        if time.monotonic() - self._watched_at > WATCH_S:
            self._watched_at = time.monotonic()
            try:
                self._check_topic()
                self._check_group()
            except KafkaUnavailable as error:
                self._astray_since = None  # nobody could join meanwhile
                log.warning("waiting for Kafka: %s", error)
            if self._waiting:
                self._tell_lags()

    def _check_group(self) -> None:
        """Whether we are still a member; raises StartOver where the client is at a loss.

        A librdkafka that was told of a cluster without any broker, by one that has just
        come back, drops them all. It may never ask anybody again, and says nothing.
        """
        if self._read_group().may_have(self._kafka.memberid()):
            self._astray_since = None
        elif self._astray_since is None:
            self._astray_since = time.monotonic()
        elif time.monotonic() - self._astray_since > ASTRAY_S:
            self._is_lost = True
            raise StartOver(
                f"Kafka answers, and this consumer was not in its group for {ASTRAY_S:g} s"
            )

    def _check_topic(self) -> bool:
        if self._read_topic().id != self._topic.id:
            raise StartOver(f"topic {self._topic.name} was recreated")
        return True

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask Kafka, and sit out a short absence of it or of the topic."""
        patient_until = time.monotonic() + RESTART_S
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
        starts = self._patiently(lambda: self._assignment.take(places))
        kafka.incremental_assign(starts)
        if self._waiting:
            kafka.pause(starts)
        else:
            kafka.resume(starts)  # it was ours before, and paused when we lost it
        taken = [start.partition for start in starts]
        log.info("assigned: %s", {each: self._assignment.next(each) for each in taken})

    def _on_revoke(self, kafka: Consumer, partitions: list[TopicPartition]) -> None:
        gone = {partition.partition for partition in partitions}
        log.info("revoked: %s", sorted(gone))
        self._batch.drop(gone)
        self._backlog = [m for m in self._backlog if m.partition() not in gone]
        self._forget_lags(gone & self.owned)
        self._assignment.drop(gone)

    def _forget_lags(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            with suppress(KeyError):
                metrics.lag.remove(partition)


_POSITION_LOST = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}
_FORBIDDEN = {
    KafkaError._FATAL,  # of which `fatal()` does not tell
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
}


def _by_code(letters: Iterable[DeadLetter]) -> Counter[str]:
    return Counter(letter.reason.code for letter in letters)


def _pauses() -> Iterator[float]:
    """Seconds to wait before each next try: doubling, with jitter, bounded."""
    pause = FIRST_PAUSE_S
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 jitter, not a secret
        pause = min(2 * pause, LONGEST_PAUSE_S)
