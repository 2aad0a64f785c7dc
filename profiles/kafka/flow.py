"""The flow: what is on the topic, what the group has read of it, which letters are kept.

In: the topics' logs and the consumer group. Out: `Flow` and `KeptLetters`, read in the
background of this process while they are wanted. Never writes; knows no page and no
table.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeVar

from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient
from django.conf import settings

from profiles.core.records import WRONG_PARTITION
from profiles.core.updates import Receipt
from profiles.kafka import clients, groups, topics
from profiles.kafka.dead_letters import DeadLetterReader, Letter
from profiles.kafka.groups import Group
from profiles.kafka.reader import LogMoved, LogReader
from profiles.kafka.topics import KafkaUnavailable, Topic, WrongTopic
from profiles.runtime.background import BackgroundReader

T = TypeVar("T")

LOG_TIMEOUT_S = 3.0
"""How long Kafka may be silent while a log is read."""
SAMPLED_S = 300.0
NEWEST_LETTERS = 200
MOST_LETTERS = 2000
"""Records of the dead-letter topic: how many are read first, and how many at most."""

_EXPECTED = (KafkaUnavailable, WrongTopic, LogMoved)


@dataclass(frozen=True, slots=True)
class PartitionFlow:
    """One partition: the log's first and next offset, and the committed offset.

    `owner` is the consumer that the partition is assigned to: empty if there is none,
    None if the broker does not report it.
    """

    partition: int
    start: int
    end: int
    committed: int | None
    owner: str | None

    @property
    def settled(self) -> int:
        """The group has applied or dead-lettered every record before this offset."""
        return max(self.start, self.committed or 0)

    @property
    def lag(self) -> int:
        """How many records the group has still to settle."""
        return max(0, self.end - self.settled)

    @property
    def gap(self) -> int:
        """How many offsets are gone from the log that the group has not settled."""
        return max(0, self.start - (self.committed or 0))


@dataclass(frozen=True, slots=True)
class Sample:
    """How many records were accepted and settled up to a moment (monotonic seconds)."""

    at_s: float
    accepted: int
    settled: int


@dataclass(frozen=True, slots=True)
class Flow:
    """The topic and its group; the samples are of the last minutes, oldest first."""

    topic: Topic
    group: Group
    partitions: Sequence[PartitionFlow]
    samples: Sequence[Sample]

    @property
    def consumers(self) -> int | None:
        """How many consumers own partitions; None if the broker does not report it."""
        owners = self.group.owners
        return None if owners is None else len({*owners.values()})

    @property
    def lag(self) -> int:
        return sum(each.lag for each in self.partitions)

    @property
    def gaps(self) -> Sequence[PartitionFlow]:
        """The partitions at which the consumer stops: an operator has to decide."""
        return [each for each in self.partitions if each.gap]

    @property
    def retained(self) -> int:
        return sum(each.end - each.start for each in self.partitions)


class FlowReader:
    """Reads the flow, and keeps its samples.

    `table_id` returns the id of the table, or None while it is not known: offsets that
    were committed for another table are ignored.
    """

    def __init__(self, consumer: Consumer, table_id: Callable[[], str | None]) -> None:
        self._consumer = consumer
        self._table_id = table_id
        self._samples: deque[Sample] = deque()
        self._topic: Topic | None = None

    def read(self, admin: AdminClient) -> Flow:
        """The committed offsets are read before the ends, so that no lag is negative."""
        topic = topics.configured(admin)
        log = LogReader(self._consumer, topic, LOG_TIMEOUT_S)
        committed = log.committed(self._table_id())
        spans = log.spans()
        group = groups.configured_group(admin)
        partitions = [
            PartitionFlow(
                number,
                span.start,
                span.stop,
                committed.get(number),
                None if group.owners is None else group.owners.get(number, ""),
            )
            for number, span in spans.items()
        ]
        return Flow(topic, group, partitions, self._sampled(topic, partitions))

    def _sampled(
        self, topic: Topic, partitions: Sequence[PartitionFlow]
    ) -> tuple[Sample, ...]:
        """The samples with one of now; another topic has none of before."""
        now = time.monotonic()
        if topic != self._topic:
            self._topic = topic
            self._samples.clear()
        while self._samples and self._samples[0].at_s < now - SAMPLED_S:
            self._samples.popleft()
        accepted = sum(each.end for each in partitions)
        settled = sum(each.settled for each in partitions)
        self._samples.append(Sample(now, accepted, settled))
        return tuple(self._samples)


@dataclass(frozen=True, slots=True)
class KeptLetters:
    """The newest dead letters, newest first.

    The topic retains so many records: dead letters, copies of them, and notes of
    redriving. The oldest `unread` of these were not read.
    """

    letters: Sequence[Letter]
    redriven: Mapping[Receipt, str]
    retained: int
    unread: int = 0

    @property
    def read(self) -> int:
        return self.retained - self.unread

    @property
    def misplaced(self) -> int:
        """How many of the letters were in a wrong partition and are not redriven."""
        return sum(
            letter.code == WRONG_PARTITION and letter.receipt not in self.redriven
            for letter in self.letters
        )


class LettersReader:
    """Reads the end of the dead-letter topic, and then what follows."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._topic: Topic | None = None
        self._reader: DeadLetterReader | None = None

    def read(self, admin: AdminClient) -> KeptLetters:
        topic = topics.describe(admin, settings.KAFKA_DLQ_TOPIC)
        reader = self._reader
        if reader is None or topic != self._topic or _kept(reader) > 2 * MOST_LETTERS:
            reader = self._newest(topic)
            self._topic, self._reader = topic, reader
        else:
            reader.read()
        newest = sorted(reader.letters.values(), key=lambda letter: -letter.kept_ms)
        return KeptLetters(
            newest[:NEWEST_LETTERS], {**reader.redriven}, reader.retained, reader.unread
        )

    def _newest(self, topic: Topic) -> DeadLetterReader:
        """The newest records; many more where no letter is among them, only notes."""
        for last in (NEWEST_LETTERS, MOST_LETTERS):
            log = LogReader(self._consumer, topic, LOG_TIMEOUT_S)
            reader = DeadLetterReader(log, last)
            reader.read()
            if reader.letters:
                break
        return reader


def _kept(reader: DeadLetterReader) -> int:
    """How much of the topic a reader holds in memory."""
    return len(reader.letters) + len(reader.redriven)


@contextmanager
def connected(
    make: Callable[[Consumer], Callable[[AdminClient], T]],
) -> Iterator[Callable[[], T]]:
    """A read with clients of its own, which are closed at its end."""
    connection = topics.AdminConnection(clients.admin)
    with clients.group_reader() as consumer, closing(connection):
        yield partial(connection.query, make(consumer))


@cache
def group_flow(table_id: Callable[[], str | None]) -> BackgroundReader[Flow]:
    """This process's view of the topic and its group."""
    return BackgroundReader(
        "Kafka",
        lambda: connected(lambda consumer: FlowReader(consumer, table_id).read),
        _EXPECTED,
    )


@cache
def kept_letters() -> BackgroundReader[KeptLetters]:
    """This process's view of the dead letters."""
    return BackgroundReader(
        "Dead letters",
        lambda: connected(lambda consumer: LettersReader(consumer).read),
        _EXPECTED,
    )
