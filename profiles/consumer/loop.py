"""The loop: messages become a batch, the batch is written, and only then committed.

In: the messages of the partitions that the group gave us. Out: writes, and committed
offsets. A batch that can't be finished is kept, or dropped uncommitted. Knows no
DynamoDB: what writes is passed in.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from threading import Thread

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from profiles.consumer.assignment import Assignment
from profiles.consumer.batches import Batch
from profiles.consumer.changes import ChangeDetector
from profiles.consumer.reading import BatchReader
from profiles.consumer.waiting import Stop, patiently, pauses
from profiles.consumer.writing import Apply, BatchWriter, PutDeadLetters
from profiles.kafka.topics import KafkaUnavailable, committed_now
from profiles.runtime import metrics, tracing

log = logging.getLogger(__name__)

BATCH_RECORDS = 500
BATCH_S = 0.1
REQUESTS_LOGGED = 20
JOIN_S = 20.0
LEAVE_S = 2.0

OnCommit = Callable[[KafkaError | None, list[TopicPartition]], None]


class ProfileConsumer:
    """One member of the consumer group.

    `kafka` makes its Kafka consumer, given the callback for commits. `changes` holds the
    topic and the table, by their ids. Keys are placed by the number of `partitions`.
    `apply` and `put_dead_letters` are as in BatchWriter.
    """

    def __init__(
        self,
        kafka: Callable[[OnCommit], Consumer],
        changes: ChangeDetector,
        partitions: int,
        apply: Apply,
        put_dead_letters: PutDeadLetters,
    ) -> None:
        self._kafka = kafka(self._on_commit)
        self._changes = changes
        self._stop = Stop()
        self._assignment = Assignment(self._kafka, changes.topic, changes.incarnation)
        self._reader = BatchReader(self._assignment, changes, partitions, self._stop)
        self._writer = BatchWriter(apply, put_dead_letters, changes, self._stop)
        self._batch = Batch()
        self._backlog: list[Message] = []
        self._is_committing = False
        self._is_paused = False
        self._is_leaving = False
        self._join_deadline = time.monotonic() + JOIN_S

    def run(self, until: Callable[[], bool]) -> None:
        """Consume until `stop` or `until`, then leave the group."""
        try:
            self._kafka.subscribe(
                [self._changes.topic.name],
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_revoke,
            )
            while not (self._stop.is_requested or until()):
                self.turn()
        except KafkaUnavailable:
            if not self._stop.is_requested:
                raise
        finally:
            self._leave()

    def stop(self) -> None:
        """Finish the batch, or give it up after GIVE_UP_S; safe in a signal handler."""
        self._stop.request()

    @property
    def owned(self) -> frozenset[int]:
        """The partitions that the group has given us."""
        return self._assignment.partitions

    @property
    def caught_up(self) -> bool:
        """Whether every owned partition is read to its end, and committed.

        Not before the group has given us some, or has had time to: Tansu never gives
        partitions again in a group that a member left while it joined.
        """
        joined = bool(self.owned) or time.monotonic() > self._join_deadline
        return joined and self._assignment.is_caught_up and not self._backlog

    def turn(self) -> None:
        """One batch: read it, write it, commit its offsets."""
        self._watch()
        self._read()
        if self._batch.ends:
            with tracing.applying(self._batch.headers):
                self._write()
        self._commit()

    def _watch(self) -> None:
        if self._changes.watch(self._kafka.memberid) and self._is_paused:
            with suppress(KafkaUnavailable):  # the last figure stays
                self._report_lag(self.owned, query=True)

    # From messages to a batch

    def _read(self) -> None:
        self._batch = Batch()
        messages = self._backlog or self._kafka.consume(BATCH_RECORDS, BATCH_S)
        self._backlog = []
        self._reader.read(messages, self._batch)
        metrics.coalesced.inc(self._batch.folded)

    # From a batch to the table

    def _write(self) -> None:
        """Make attempts until all of the batch is written, or the time is over."""
        started, pause = time.monotonic(), pauses()
        left = self._batch.size
        self._writer.begin()
        while not self._writer.attempt(self._batch):
            if self._stop.is_overdue:
                log.warning("stopped with a batch unfinished: it is not committed")
                return
            if self._batch.size < left:
                left, pause = self._batch.size, pauses()
            self._wait(next(pause))
        self._resume()
        self._assignment.settle(self._batch.ends)
        self._report(self._batch, time.monotonic() - started)

    def _wait(self, seconds: float) -> None:
        """Pass the time inside consume(), which keeps our membership alive.

        A rebalance may assign partitions meanwhile, and deliver their first records:
        those are kept for later.
        """
        self._pause()
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            arrived = self._kafka.consume(BATCH_RECORDS, min(left, 0.5))
            # Two statements: a revocation inside consume() replaces the backlog.
            self._backlog += [each for each in arrived if self._is_ours(each)]
            if self._stop.is_requested:
                return
        self._watch()

    def _is_ours(self, message: Message) -> bool:
        """Whether it is of a partition of ours, or an error of any kind."""
        error = message.error()
        is_of_a_partition = error is None or error.code() == KafkaError._PARTITION_EOF
        return not is_of_a_partition or message.partition() in self.owned

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._kafka.pause(self._kafka.assignment())

    def _resume(self) -> None:
        """Go on with every partition: a pause outlives a revocation."""
        if self._is_paused:
            self._is_paused = False
            self._kafka.resume(self._kafka.assignment())

    # From the table to committed offsets

    def _commit(self) -> None:
        """Send a commit of what is settled; one at a time, but for the last one.

        The answer is not waited for: a silent coordinator never sends it, and a thread
        that waits inside the client gets no signal.
        """
        offsets = self._assignment.uncommitted()
        if not offsets or (self._is_committing and not self._stop.is_requested):
            return
        self._is_committing = True
        try:
            self._kafka.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._on_commit(error.args[0], [])

    def _on_commit(
        self, error: KafkaError | None, offsets: Sequence[TopicPartition]
    ) -> None:
        """The answer, inside consume(); what failed is committed in the next turn."""
        self._is_committing = False
        error = error or next((each.error for each in offsets if each.error), None)
        if error is not None:
            log.warning("offsets are not committed yet (%s)", error.name())
            return
        self._assignment.mark_committed(offsets)

    # Partitions come and go

    def _on_assign(self, kafka: Consumer, partitions: list[TopicPartition]) -> None:
        if self._is_leaving:  # close() still delivers what it had joined for
            return
        patiently(self._changes.check_topic, self._stop)
        committed = patiently(lambda: committed_now(kafka, partitions), self._stop)
        starts = patiently(lambda: self._assignment.add(committed), self._stop)
        kafka.incremental_assign(starts)
        if self._is_paused:
            kafka.pause(starts)
        else:
            kafka.resume(starts)  # it may be paused since we owned it before
        self._log_assigned(starts)

    def _log_assigned(self, starts: Sequence[TopicPartition]) -> None:
        for partition in sorted(start.partition for start in starts):
            offset = self._assignment.settled(partition)
            where = f"from offset {offset}" if offset else "from the beginning"
            log.info("assigned partition %d %s", partition, where)
        if not starts:
            log.info("assigned no more partitions")

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        revoked = {partition.partition for partition in partitions}
        for partition in sorted(revoked):
            log.info("revoked partition %d", partition)
        self._batch.drop(revoked)
        self._backlog = [m for m in self._backlog if m.partition() not in revoked]
        self._forget_lag(revoked & self.owned)
        self._assignment.remove(revoked)

    def _leave(self) -> None:
        """Leave the group, and let a last commit end; not longer than LEAVE_S.

        Where Kafka is silent, the group takes us for dead when our session ends.
        """
        self._is_leaving = True
        leave = self._drop if self._changes.group_has_lost_us else self._kafka.close
        leaving = Thread(target=leave, name="leave", daemon=True)
        leaving.start()
        leaving.join(LEAVE_S)

    def _drop(self) -> None:
        """Destroy the client by removing every reference to it.

        Its close() may wait without end for the answer to a commit, with all its
        threads; and there is no group to leave.
        """
        self._forget_lag(self.owned)
        del self._kafka, self._assignment, self._reader

    # What is logged and measured

    def _report(self, batch: Batch, seconds: float) -> None:
        metrics.batch_records.observe(len(batch.headers))
        self._report_lag(batch.ends)
        requests = {tracing.request_id(carried) for carried in batch.headers} - {""}
        log.info(
            "batch: applied=%d already=%d seconds=%.3f next=%s requests=%s",
            batch.applied,
            batch.already,
            seconds,
            {partition: end.offset for partition, end in batch.ends.items()},
            sorted(requests)[:REQUESTS_LOGGED],
        )

    def _report_lag(self, partitions: Iterable[int], query: bool = False) -> None:
        for partition in partitions:
            metrics.lag.labels(partition).set(self._assignment.lag(partition, query))

    def _forget_lag(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            with suppress(KeyError):
                metrics.lag.remove(partition)
