"""The offsets: where the group is in each partition that it gave us.

In: committed offsets, messages, what is settled. Out: where to begin, which records are
new, what to commit, how far behind we are. Knows no record's content and no table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from confluent_kafka import Consumer, Message, TopicPartition

from profiles.core.updates import Incarnation
from profiles.kafka.reader import watermarks
from profiles.kafka.topics import Topic

LAG_TIMEOUT_S = 2.0


class PositionLost(Exception):
    """The log lacks what was settled, or what is next: at `offset`, or -1."""

    def __init__(self, partition: int, offset: int) -> None:
        super().__init__(f"partition {partition}")
        self.partition = partition
        self.offset = offset


@dataclass(slots=True)
class Position:
    """One partition of ours.

    `settled` is the offset after the last settled record, or 0. `proof` is the leader's
    epoch that this record has to have, where that is still to be seen; `epoch` the one
    of the last record that was read. `due` is yet to be committed.
    """

    settled: int
    proof: int | None = None
    epoch: int = -1
    due: TopicPartition | None = None
    ended: bool = False


class Assignment:
    """The partitions of one member of the group.

    `store` names the incarnation of the table that offsets count for.
    """

    def __init__(self, kafka: Consumer, topic: Topic, store: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._mark = str(Incarnation(topic.id, store))
        self._of: dict[int, Position] = {}

    @property
    def owned(self) -> frozenset[int]:
        """Our partitions."""
        return frozenset(self._of)

    @property
    def settled(self) -> bool:
        """Whether each is read to its end, and committed."""
        return all(
            position.ended and position.due is None for position in self._of.values()
        )

    def next(self, partition: int) -> int:
        """The offset of the first record that is not settled."""
        return self._of[partition].settled

    # What is ours

    def take(self, committed: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Take partitions in; where to begin in each. Raises KafkaUnavailable."""
        begun = [self._begin(position) for position in committed]
        self._of.update((start.partition, position) for position, start in begun)
        return [start for _, start in begun]

    def drop(self, partitions: Iterable[int]) -> None:
        """Forget what another member now owns."""
        for partition in partitions:
            self._of.pop(partition, None)

    def _begin(self, committed: TopicPartition) -> tuple[Position, TopicPartition]:
        """At offset 0, unless committed for this topic and table.

        So a recreated topic is read from 0, and a table that was restored, or made
        anew under its old name, is filled again. A log that begins later is a gap: the
        table lacks its beginning. An operator who wants to begin there sets an offset,
        without a mark. It is committed with the mark at once: it is meant for this
        topic and this table.
        """
        start = TopicPartition(committed.topic, committed.partition, committed.offset)
        if committed.offset < 0 or committed.metadata not in (None, "", self._mark):
            start.offset = 0
            return Position(0), start
        position = Position(committed.offset)
        if not committed.metadata:
            epoch = known(committed.leader_epoch)
            position.due = self._at(committed.partition, committed.offset, epoch)
        if self._has_proof(committed):
            position.proof = committed.leader_epoch
            start.offset -= 1
        return position, start

    def _has_proof(self, committed: TopicPartition) -> bool:
        """Whether the record before can be asked for its leader's epoch.

        A log that was cut below it, and grew again, has another record there.
        """
        if committed.offset == 0 or known(committed.leader_epoch) < 0:
            return False
        low, _ = watermarks(self._kafka, committed)
        return low < committed.offset

    # What is read

    def is_new(self, message: Message) -> bool:
        """Whether this record is ours to settle; raises PositionLost."""
        partition = known(message.partition())
        position = self._of.get(partition)
        if position is None:
            return False  # revoked while it was on its way to us
        proof, position.proof = position.proof, None
        if proof is not None and message.offset() == position.settled - 1:
            if message.leader_epoch() != proof:
                raise PositionLost(partition, -1)
            return False
        position.epoch = known(message.leader_epoch())
        position.ended = False
        return True

    def meet_end(self, partition: int, offset: int) -> None:
        """The log ends here; raises PositionLost where that is before what is settled.

        A leader that has just taken over may show less than it has: it is asked, and
        the record is waited for. Raises KafkaUnavailable.
        """
        position = self._of.get(partition)
        if position is None:
            return
        if position.proof is not None and offset < position.settled:
            _, end = watermarks(self._kafka, self._at(partition))
            if end < position.settled:
                raise PositionLost(partition, position.settled)
            return
        position.proof, position.ended = None, True

    def gap(self, lost: PositionLost) -> str:
        """What the log has, and what it lacks. Raises KafkaUnavailable."""
        position = self._of.get(lost.partition)
        proving = position is not None and position.proof is not None
        next_ = position.settled if position is not None and proving else lost.offset
        low, high = watermarks(self._kafka, self._at(lost.partition))
        held = (
            f"partition {lost.partition} of topic {self._topic.name} holds the offsets "
            f"{low} to {high}, and the group "
        )
        if next_ < 0 or low <= next_ <= high:
            return (
                f"{held}has read records that it does not hold: the log was cut and "
                "grew again; see docs/operations.md"
            )
        if next_ == 0:
            return (
                f"{held}is to begin at 0: the records before {low} are gone from the "
                f"log. To begin at {low} all the same, set the group's offsets with "
                "`kafka-consumer-groups.sh --reset-offsets --to-earliest --execute`; "
                "see docs/operations.md"
            )
        return (
            f"{held}is to go on at {next_}: the records between are gone from the "
            "log; see docs/operations.md"
        )

    # What is settled

    def settle(self, ends: Mapping[int, int]) -> None:
        """Everything before these offsets is in the table, or a dead letter."""
        for partition, end in ends.items():
            position = self._of[partition]
            position.settled, position.due = (
                end,
                self._at(partition, end, position.epoch),
            )

    def due(self) -> list[TopicPartition]:
        """What to commit: with the epoch by which a cut log is known."""
        return [
            position.due for position in self._of.values() if position.due is not None
        ]

    def committed(self, offsets: Iterable[TopicPartition]) -> None:
        """Kafka has committed these."""
        for done in offsets:
            position = self._of.get(done.partition)
            if position and position.due and position.due.offset == done.offset:
                position.due = None

    def lag(self, partition: int, ask: bool = False) -> int:
        """The records past what is settled, as the last fetch told.

        Where nothing is fetched, Kafka has to be asked; raises KafkaUnavailable.
        """
        at = self._at(partition)
        low, end = watermarks(self._kafka, at, cached=True)
        if ask:
            low, asked = watermarks(self._kafka, at, LAG_TIMEOUT_S)
            end = max(end, asked)  # what Tansu tells is too low
        return max(0, end - max(low, self._of[partition].settled))

    def _at(self, partition: int, offset: int = 0, epoch: int = -1) -> TopicPartition:
        return TopicPartition(self._topic.name, partition, offset, self._mark, epoch)


def known(value: int | None) -> int:
    """A partition, offset or epoch; -1 is none, for librdkafka too."""
    return -1 if value is None else value
