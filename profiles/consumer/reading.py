"""Reading: the first of three rooms. Messages become a batch.

In: what consume() returned. Out: the records of our partitions, in the batch; errors,
logged or raised; the ends of partitions, noted in the assignment. Knows no table.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from confluent_kafka import KafkaError, Message

from profiles.consumer.assignment import Assignment, PositionLost, known
from profiles.consumer.batches import Batch
from profiles.consumer.changes import ChangeDetector
from profiles.consumer.waiting import Stop, patiently
from profiles.core.updates import Source
from profiles.kafka.reader import record_of

log = logging.getLogger(__name__)


class RecordsMissing(Exception):
    """Records that were never applied are gone from the log: an operator decides."""


class MemberRefused(Exception):
    """Kafka refuses this member of the group: an operator has to act."""


class BatchReader:
    """Adds messages to a batch. Keys are placed by the number of `partitions`."""

    def __init__(
        self,
        assignment: Assignment,
        changes: ChangeDetector,
        partitions: int,
        stop: Stop,
    ) -> None:
        self._assignment = assignment
        self._changes = changes
        self._partitions = partitions
        self._stop = stop

    def read(self, messages: Iterable[Message], batch: Batch) -> None:
        """Add the records of our partitions to the batch.

        Raises RecordsMissing, MemberRefused, StartOver or KafkaUnavailable.
        """
        try:
            for message in messages:
                if (error := message.error()) is not None:
                    self._handle(error, message)
                elif self._assignment.is_new(message):
                    self._add(message, batch)
        except PositionLost as lost:
            # A recreated topic lacks nothing: that is StartOver.
            patiently(self._changes.check_topic, self._stop)
            raise RecordsMissing(self._assignment.describe_loss(lost)) from None

    def _add(self, message: Message, batch: Batch) -> None:
        source = Source(self._changes.topic.id, known(message.partition()))
        epoch = known(message.leader_epoch())
        batch.add(record_of(message, source), epoch, self._partitions)

    def _handle(self, error: KafkaError, message: Message) -> None:
        code = error.code()
        partition, offset = known(message.partition()), known(message.offset())
        if code == KafkaError._PARTITION_EOF:
            reach_end = self._assignment.reach_end
            patiently(lambda: reach_end(partition, offset), self._stop)
        elif code in _POSITION_LOST:
            raise PositionLost(partition, offset)
        elif error.fatal() or code in _REFUSED:
            raise MemberRefused(
                f"Kafka refuses this member of the group ({error.str()}): check its "
                "rights, and that no other member has its group.instance.id"
            )
        else:
            log.warning("Kafka: partition=%d %s", partition, error.name())


_POSITION_LOST = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}
_REFUSED = {
    KafkaError._FATAL,  # for which `fatal()` is false
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
}
