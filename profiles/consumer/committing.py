"""Committing: the third of three rooms. Offsets of what is written go to Kafka.

In: written batches. Out: commits, the lag of each partition, and a log line a batch.
Knows no record's content and no table.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from profiles.consumer.assignment import Assignment
from profiles.consumer.batches import Batch
from profiles.consumer.waiting import Stop
from profiles.runtime import metrics, tracing

log = logging.getLogger(__name__)

REQUESTS_LOGGED = 20


class OffsetCommitter:
    """Commits what is settled, without waiting for the answers."""

    def __init__(self, kafka: Consumer, assignment: Assignment, stop: Stop) -> None:
        self._kafka = kafka
        self._assignment = assignment
        self._stop = stop
        self._is_committing = False

    def settle(self, batch: Batch, seconds: float) -> None:
        """Note that a batch is written; that took so many seconds."""
        self._assignment.settle(batch.ends)
        carried = batch.carried
        metrics.batch_records.observe(len(carried))
        self.report_lag(batch.ends)
        requests = {tracing.request_id(headers) for headers in carried} - {""}
        log.info(
            "batch: applied=%d already=%d seconds=%.3f next=%s requests=%s",
            batch.applied,
            batch.already,
            seconds,
            {partition: end.offset for partition, end in batch.ends.items()},
            sorted(requests)[:REQUESTS_LOGGED],
        )

    def commit(self) -> None:
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
            self.on_commit(error.args[0], [])

    def on_commit(
        self, error: KafkaError | None, offsets: Sequence[TopicPartition]
    ) -> None:
        """The answer, inside consume(); what failed is committed the next time."""
        self._is_committing = False
        error = error or next((each.error for each in offsets if each.error), None)
        if error is not None:
            log.warning("offsets are not committed yet (%s)", error.name())
            return
        self._assignment.mark_committed(offsets)

    def report_lag(self, partitions: Iterable[int], query: bool = False) -> None:
        """As of the last fetch, or by a query; raises KafkaUnavailable."""
        for partition in partitions:
            metrics.lag.labels(partition).set(self._assignment.lag(partition, query))

    def forget_lag(self, partitions: Iterable[int]) -> None:
        """From now on it is another member's."""
        for partition in partitions:
            with suppress(KeyError):
                metrics.lag.remove(partition)
