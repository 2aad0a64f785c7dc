"""The loop: messages become a batch, the batch is written, and only then committed.

In: the messages of the partitions that the group gave us. Out: writes, and committed
offsets. While one batch is written, the next one is read. A batch that can't be finished
is kept, or dropped uncommitted. Knows no DynamoDB: what writes is passed in.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Thread

from confluent_kafka import Consumer, KafkaError, TopicPartition

from profiles.consumer.assignment import Assignment
from profiles.consumer.batches import Batch
from profiles.consumer.changes import ChangeDetector
from profiles.consumer.committing import OffsetCommitter
from profiles.consumer.reading import BatchReader
from profiles.consumer.waiting import Stop, patiently, pauses
from profiles.consumer.writing import Apply, BatchWriter, PutDeadLetters
from profiles.kafka.groups import committed_now
from profiles.kafka.topics import KafkaUnavailable

log = logging.getLogger(__name__)

FETCH_RECORDS = 64
"""Decoded at a time: by so many a batch may exceed its bytes."""

IDLE_S = 0.1
WRITING_S = 0.005
"""How often messages are fetched while a batch is written."""

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
        self._kafka = kafka(lambda *answer: self._committer.on_commit(*answer))
        self._changes = changes
        self._stop = Stop()
        self._assignment = Assignment(self._kafka, changes.topic, changes.incarnation)
        self._reader = BatchReader(self._assignment, changes, partitions, self._stop)
        self._writer = BatchWriter(apply, put_dead_letters, changes, self._stop)
        self._committer = OffsetCommitter(self._kafka, self._assignment, self._stop)
        self._next = Batch()
        """The batch in the making."""
        self._is_writing = False
        self._began_at = 0.0
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
            self._end()
        except KafkaUnavailable:
            if not self._stop.is_requested:
                raise
        finally:
            self._leave()
            self._writer.close()

    def stop(self) -> None:
        """Finish what is being written, or give it up; safe in a signal handler."""
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
        is_idle = not (self._is_writing or self._next.ends)
        return joined and is_idle and self._assignment.is_caught_up

    def turn(self) -> None:
        """Wait for records, or until the last batch is written; then begin the next."""
        self._watch()
        if self._is_writing:
            self._finish()
        else:
            self._fetch(IDLE_S)
        if self._stop.is_requested:
            return
        self._committer.commit()
        if self._next.ends:
            self._begin()

    def _end(self) -> None:
        """Finish what is being written, and commit; what was read ahead is dropped."""
        if self._is_writing:
            self._finish()
        if self._is_writing:
            log.warning("stopped with a batch unfinished: it is not committed")
        self._committer.commit()

    def _watch(self) -> None:
        if self._changes.watch(self._kafka.memberid()) and self._is_paused:
            with suppress(KafkaUnavailable):  # the last figure stays
                self._committer.report_lag(self.owned, query=True)

    # From messages to a batch

    def _fetch(self, seconds: float) -> None:
        """Wait for a first message, and take what is there then, as far as it fits."""
        messages = self._kafka.consume(1, seconds)
        while messages:
            self._reader.read(messages, self._next)
            room = min(FETCH_RECORDS, self._next.room)
            messages = self._kafka.consume(room, 0) if room else []

    # From a batch to the table

    def _begin(self) -> None:
        """Begin to write the batch in the making, and to make another."""
        batch, self._next = self._next, Batch()
        self._is_writing, self._began_at = True, time.monotonic()
        self._writer.begin(batch)

    def _finish(self) -> None:
        """Settle the batch that is being written, or leave it where time is over."""
        if self._is_written():
            self._is_writing = False
            self._resume()
            seconds = time.monotonic() - self._began_at
            self._committer.settle(self._writer.batch, seconds)

    def _is_written(self) -> bool:
        """Make attempts until all of the batch is written; False where time is over."""
        pause, left = pauses(), self._writer.batch.size
        while not self._attempt_has_ended() or not self._writer.end_attempt():
            if self._stop.is_overdue:
                return False
            if self._writer.batch.size < left:
                left, pause = self._writer.batch.size, pauses()
            self._wait(next(pause))
            self._writer.attempt()
        return True

    def _attempt_has_ended(self) -> bool:
        """Read the next batch until the attempt ends; False where time is over."""
        while not self._writer.wait(WRITING_S):
            if self._stop.is_overdue:
                return False
            if self._next.room and not self._stop.is_requested:
                self._fetch(0)
        return True

    def _wait(self, seconds: float) -> None:
        """Pass the time inside consume(), which keeps our membership alive.

        A rebalance may assign partitions meanwhile, and deliver their first records:
        those are in the next batch.
        """
        self._pause()
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._fetch(min(left, 0.5))
            if self._stop.is_requested:
                return
        self._watch()

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._kafka.pause(self._kafka.assignment())

    def _resume(self) -> None:
        """Go on with every partition: a pause outlives a revocation."""
        if self._is_paused:
            self._is_paused = False
            self._kafka.resume(self._kafka.assignment())

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
        self._writer.batch.drop(revoked)
        self._next.drop(revoked)
        self._committer.forget_lag(revoked & self.owned)
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
        self._committer.forget_lag(self.owned)
        del self._kafka, self._assignment, self._reader, self._committer
