"""The assignment: the partitions that the group gave us, and our position in each.

In: committed offsets, messages, the offsets of settled batches. Out: where to begin,
which records are new, what to commit, and the lag. Knows no record's content.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from confluent_kafka import Consumer, Message, TopicPartition

from profiles.core.updates import Incarnation
from profiles.kafka.reader import watermarks
from profiles.kafka.topics import Topic

LAG_TIMEOUT_S = 2.0


class PositionLost(Exception):
    """The log lacks the record at `offset`; -1 where its records are other ones."""

    def __init__(self, partition: int, offset: int) -> None:
        super().__init__(f"partition {partition}")
        self.partition = partition
        self.offset = offset


class End(NamedTuple):
    """Where a batch ends in one partition: the offset after its last record, and the
    leader's epoch of that record.
    """

    offset: int
    epoch: int


@dataclass(slots=True)
class Position:
    """Where we are in one partition.

    Every record before `settled` is in the table, or a dead letter. `uncommitted` is the
    offset that is still to be committed. `at_end` is true after the log's end was read.
    `expected_epoch` is the leader's epoch of the last settled record, until that record
    is read again and compared.
    """

    settled: int
    uncommitted: TopicPartition | None = None
    at_end: bool = False
    expected_epoch: int | None = None


class Assignment:
    """The partitions of one member of the group.

    `incarnation` marks the offsets that we commit, and those that are valid for us.
    """

    def __init__(self, kafka: Consumer, topic: Topic, incarnation: Incarnation) -> None:
        self._kafka = kafka
        self._topic = topic
        self._incarnation = incarnation
        self._positions: dict[int, Position] = {}

    @property
    def partitions(self) -> frozenset[int]:
        """Our partitions."""
        return frozenset(self._positions)

    @property
    def is_caught_up(self) -> bool:
        """Whether each partition is read to its end, and committed."""
        return all(
            position.at_end and position.uncommitted is None
            for position in self._positions.values()
        )

    # Partitions come and go

    def add(self, committed: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Take in partitions; returns where to begin each. Raises KafkaUnavailable."""
        positions = {each.partition: self._position(each) for each in committed}
        self._positions |= positions
        return [self._start(partition) for partition in positions]

    def remove(self, partitions: Iterable[int]) -> None:
        """Forget partitions that were revoked."""
        for partition in partitions:
            self._positions.pop(partition, None)

    def _position(self, committed: TopicPartition) -> Position:
        """The committed offset, if it is valid for this topic and this table; else 0.

        So a recreated topic, and a table that was restored or made anew under its name,
        begin at 0. An offset without a mark was set by an operator, for this topic and
        this table: it is committed with the mark at once.
        """
        if committed.offset < 0:
            return Position(0)
        epoch = known(committed.leader_epoch)
        position = Position(committed.offset)
        if not committed.metadata:
            end = End(committed.offset, epoch)
            position.uncommitted = self._marked(committed.partition, end)
        elif Incarnation.parse(committed.metadata) != self._incarnation:
            return Position(0)
        if committed.offset > 0 and epoch >= 0 and self._retains_before(committed):
            position.expected_epoch = epoch
        return position

    def _retains_before(self, committed: TopicPartition) -> bool:
        """Whether the log still has the record before the committed offset."""
        low, _ = watermarks(self._kafka, committed)
        return low < committed.offset

    def _start(self, partition: int) -> TopicPartition:
        """Where to read from: the last settled record again, if it is to be compared."""
        position = self._positions[partition]
        compared = position.expected_epoch is not None
        return TopicPartition(self._topic.name, partition, position.settled - compared)

    # What is read

    def is_new(self, message: Message) -> bool:
        """Whether this record is to be applied.

        Not if its partition was revoked after it was fetched. Not if it is the last
        settled record: that is read only to compare its leader's epoch. If the epoch
        differs, the log was cut and grew again: raises PositionLost.
        """
        partition = known(message.partition())
        position = self._positions.get(partition)
        if position is None:
            return False
        position.at_end = False
        expected, position.expected_epoch = position.expected_epoch, None
        if expected is None or message.offset() != position.settled - 1:
            return True
        if message.leader_epoch() != expected:
            raise PositionLost(partition, -1)
        return False

    def reach_end(self, partition: int, offset: int) -> None:
        """Note that the log ends at this offset.

        Raises PositionLost if that is before what is settled. A new leader may show an
        end that is too low for a moment: then the record is waited for. Raises
        KafkaUnavailable.
        """
        position = self._positions.get(partition)
        if position is None:
            return
        if position.expected_epoch is None or offset >= position.settled:
            position.expected_epoch, position.at_end = None, True
            return
        _, high = watermarks(self._kafka, self._at(partition))
        if high < position.settled:
            raise PositionLost(partition, position.settled)

    def describe_loss(self, lost: PositionLost) -> str:
        """What the log has, what it lacks, what to do. Raises KafkaUnavailable."""
        position = self._positions.get(lost.partition)
        wanted = lost.offset
        if position is not None and position.expected_epoch is not None:
            wanted = position.settled
        low, high = watermarks(self._kafka, self._at(lost.partition))
        held = (
            f"partition {lost.partition} of topic {self._topic.name} holds the offsets "
            f"{low} to {high}, and the group "
        )
        if wanted < 0 or low <= wanted <= high:
            return (
                f"{held}has read records that it does not hold: the log was cut and "
                "grew again; see docs/operations.md"
            )
        if wanted == 0:
            return (
                f"{held}is to begin at 0: the records before {low} are gone from the "
                f"log. To begin at {low} all the same, set the group's offsets with "
                "`kafka-consumer-groups.sh --reset-offsets --to-earliest --execute`; "
                "see docs/operations.md"
            )
        return (
            f"{held}is to go on at {wanted}: the records between are gone from the "
            "log; see docs/operations.md"
        )

    # What is settled

    def settled(self, partition: int) -> int:
        """The offset of the first record that is not settled."""
        return self._positions[partition].settled

    def settle(self, ends: Mapping[int, End]) -> None:
        """Note that every record before these ends is in the table, or a dead letter."""
        for partition, end in ends.items():
            position = self._positions[partition]
            position.settled = end.offset
            position.uncommitted = self._marked(partition, end)

    def uncommitted(self) -> list[TopicPartition]:
        """The offsets that are to be committed."""
        due = (position.uncommitted for position in self._positions.values())
        return [offset for offset in due if offset is not None]

    def mark_committed(self, offsets: Iterable[TopicPartition]) -> None:
        """Note that Kafka has committed these; a later offset stays uncommitted."""
        for done in offsets:
            position = self._positions.get(done.partition)
            due = position and position.uncommitted
            if position and due and due.offset == done.offset:
                position.uncommitted = None

    def lag(self, partition: int, query: bool = False) -> int:
        """The number of records past what is settled, as of the last fetch.

        With `query`, by a query of Kafka too: a paused partition is not fetched. Raises
        KafkaUnavailable.
        """
        at = self._at(partition)
        low, high = watermarks(self._kafka, at, cached=True)
        if query:
            low, queried = watermarks(self._kafka, at, LAG_TIMEOUT_S)
            high = max(high, queried)  # Tansu answers one that is too low
        return max(0, high - max(low, self.settled(partition)))

    def _at(self, partition: int) -> TopicPartition:
        return TopicPartition(self._topic.name, partition)

    def _marked(self, partition: int, end: End) -> TopicPartition:
        """An offset to commit; by its epoch a log that was cut is recognized."""
        mark = str(self._incarnation)
        return TopicPartition(self._topic.name, partition, end.offset, mark, end.epoch)


def known(value: int | None) -> int:
    """A partition, offset or epoch; -1 where there is none, as librdkafka has it."""
    return -1 if value is None else value
