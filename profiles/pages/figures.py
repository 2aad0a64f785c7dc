"""The figures: what the pipeline does now, and did in the last minutes.

Out: what is on the topic, what the group has done of it and who owns what; the dead
letters. Each is read in the background of this process
while somebody looks, and for some minutes after. Never writes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Generic, TypeVar

from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient
from django.conf import settings

from profiles.core.records import WRONG_PARTITION
from profiles.core.updates import Receipt
from profiles.dynamodb import health
from profiles.kafka import clients, groups, topics
from profiles.kafka.dead_letters import DeadLetterReader, Letter
from profiles.kafka.reader import LogMoved, LogReader
from profiles.kafka.topics import KafkaUnavailable, Topic, WrongTopic
from profiles.runtime.background import BackgroundReader

T = TypeVar("T")

PATIENCE_S = 3.0
KEPT_S = 300.0
LAST_LETTERS = 200
MOST_LETTERS = 2000

_EXPECTED = (KafkaUnavailable, WrongTopic, LogMoved)


@dataclass(frozen=True, slots=True)
class PartitionFigures:
    """One partition: the log's first and next offset, and the group's next.

    `owner` is empty where nobody owns it, and None where the broker does not tell.
    """

    partition: int
    start: int
    end: int
    committed: int | None
    owner: str | None

    @property
    def settled(self) -> int:
        """Up to where the group has applied or dead-lettered."""
        return max(self.start, self.committed or 0)

    @property
    def lag(self) -> int:
        """The records that the group has still to settle."""
        return max(0, self.end - self.settled)

    @property
    def gone(self) -> int:
        """Offsets that the log has lost, and the group was to settle next."""
        return max(0, self.start - (self.committed or 0))


@dataclass(frozen=True, slots=True)
class Sample:
    """How many records were accepted and settled since the topic began, at a time."""

    at_s: float
    accepted: int
    settled: int


@dataclass(frozen=True, slots=True)
class Flow:
    """The topic and its group; the samples are of the last minutes, oldest first."""

    topic: Topic
    group_state: str
    consumers: int | None
    partitions: Sequence[PartitionFigures]
    samples: Sequence[Sample]

    @property
    def lag(self) -> int:
        return sum(figures.lag for figures in self.partitions)

    @property
    def gaps(self) -> Sequence[PartitionFigures]:
        """Partitions at which the consumer stops: an operator has to decide."""
        return [figures for figures in self.partitions if figures.gone]

    @property
    def retained(self) -> int:
        return sum(figures.end - figures.start for figures in self.partitions)


class KafkaReader(Generic[T]):
    """Reads of Kafka with a consumer that it is handed, and an admin client."""

    def __init__(self, reader: Consumer) -> None:
        self._reader = reader

    def read(self, admin: AdminClient) -> T:
        raise NotImplementedError

    def log(self, topic: Topic) -> LogReader:
        """The topic's log, read with little patience."""
        return LogReader(self._reader, topic, PATIENCE_S)


class FlowReader(KafkaReader[Flow]):
    """Reads the flow, and remembers what it read.

    `store` names the table's incarnation, where it is known: offsets that were
    committed for another one do not count.
    """

    def __init__(self, reader: Consumer, store: Callable[[], str | None]) -> None:
        super().__init__(reader)
        self._store = store
        self._samples: deque[Sample] = deque()
        self._topic: Topic | None = None

    def read(self, admin: AdminClient) -> Flow:
        """The committed offsets are read before the ends: no lag is negative."""
        topic = topics.configured(admin)
        log = self.log(topic)
        committed = log.committed(self._store())
        spans = log.spans()
        group = groups.describe_group(admin, settings.KAFKA_GROUP_ID, topic.name)
        partitions = [
            PartitionFigures(
                number,
                span.start,
                span.stop,
                committed.get(number),
                None if group.owners is None else group.owners.get(number, ""),
            )
            for number, span in spans.items()
        ]
        self._remember(topic, partitions)
        owners = None if group.owners is None else len({*group.owners.values()})
        return Flow(topic, group.state, owners, partitions, tuple(self._samples))

    def _remember(self, topic: Topic, partitions: list[PartitionFigures]) -> None:
        now = time.monotonic()
        if topic != self._topic:
            self._topic = topic
            self._samples.clear()
        while self._samples and self._samples[0].at_s < now - KEPT_S:
            self._samples.popleft()
        accepted = sum(figures.end for figures in partitions)
        settled = sum(figures.settled for figures in partitions)
        self._samples.append(Sample(now, accepted, settled))


@dataclass(frozen=True, slots=True)
class KeptLetters:
    """The newest dead letters, newest first, of all that the topic retains."""

    letters: Sequence[Letter]
    redriven: Mapping[Receipt, str]
    retained: int

    @property
    def misplaced(self) -> int:
        """How many of these stood outside their patient's partition, and still wait."""
        return sum(
            letter.code == WRONG_PARTITION and letter.receipt not in self.redriven
            for letter in self.letters
        )


class LettersReader(KafkaReader[KeptLetters]):
    """Reads the end of the dead-letter topic, and then what comes."""

    def __init__(self, reader: Consumer) -> None:
        super().__init__(reader)
        self._topic: Topic | None = None
        self._kept: DeadLetterReader | None = None

    def read(self, admin: AdminClient) -> KeptLetters:
        topic = topics.describe(admin, settings.KAFKA_DLQ_TOPIC)
        kept = self._kept
        if kept is None or topic != self._topic or len(kept.letters) > MOST_LETTERS:
            kept = DeadLetterReader(self.log(topic), LAST_LETTERS)
            self._topic, self._kept = topic, kept
        kept.read()
        newest = sorted(kept.letters.values(), key=lambda one: -one.kept_ms)
        return KeptLetters(newest[:LAST_LETTERS], {**kept.redriven}, kept.retained)


@contextmanager
def reading(make: Callable[[Consumer], KafkaReader[T]]) -> Iterator[Callable[[], T]]:
    """Reads with clients of its own, and closes them."""
    admin_connection = topics.AdminConnection(clients.admin)
    with clients.group_reader() as reader, closing(admin_connection):
        yield partial(admin_connection.query, make(reader).read)


@cache
def flow() -> BackgroundReader[Flow]:
    """This process's view of the topic and its group."""
    return BackgroundReader(
        "Kafka", lambda: reading(partial(FlowReader, store=_store)), _EXPECTED
    )


@cache
def letters() -> BackgroundReader[KeptLetters]:
    """This process's view of the dead letters."""
    return BackgroundReader("Dead letters", lambda: reading(LettersReader), _EXPECTED)


def _store() -> str | None:
    known = health.table().last_success.value
    return None if known is None else known.identity
