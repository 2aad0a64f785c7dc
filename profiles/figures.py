"""The figures: what the pipeline does now, and did in the last minutes.

Out: what is on the topic, what the group has done of it and who owns what; the dead
letters; whether the table answers. Each is read in the background of this process
while somebody looks, and for some minutes after. Never writes.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    closing,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass
from functools import cache, partial
from threading import Condition, Thread
from typing import Generic, TypeVar

from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient
from django.conf import settings

from profiles import connections, topics
from profiles.logs import Log, LogMoved
from profiles.lookups import StoreUnavailable, profiles
from profiles.records import WRONG_PARTITION
from profiles.redrive import DeadLetters, Letter
from profiles.topics import KafkaUnavailable, Topic, WrongTopic
from profiles.updates import Receipt

log = logging.getLogger(__name__)

T = TypeVar("T")
Reading = AbstractContextManager[Callable[[], T]]
"""Open, it is what to call for a reading."""

EVERY_S = 2.0
PATIENCE_S = 3.0
IDLE_S = 600.0
"""How long after the last look the readings go on: who comes back finds a chart."""
KEPT_S = 300.0
LAST_LETTERS = 200
MOST_LETTERS = 2000

_EXPECTED = (KafkaUnavailable, WrongTopic, LogMoved, StoreUnavailable)


@dataclass(frozen=True, slots=True)
class Look(Generic[T]):
    """The last reading, or why there is none."""

    value: T | None
    problem: str = ""


class Observer(Generic[T]):
    """Something outside, read again and again while somebody looks.

    The thread starts with a look, so in the process that asks: after any fork. It
    opens itself what it reads with, and closes it at its end.
    """

    def __init__(self, name: str, reading: Callable[[], Reading[T]]) -> None:
        self.known: T | None = None
        self._name = name
        self._reading = reading
        self._read: Callable[[], T] | None = None
        self._changed = Condition()
        self._thread: Thread | None = None
        self._wanted_until = 0.0
        self._look: Look[T] | None = None

    def wake(self) -> None:
        """Start reading, or go on."""
        with self._changed:
            self._wanted_until = time.monotonic() + IDLE_S
            if self._thread is None:
                self._look = None
                self._thread = Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def look(self, by_s: float) -> Look[T]:
        """What is known now; where nothing is yet, it is waited for until then."""
        self.wake()
        with self._changed:
            left_s = max(0.0, by_s - time.monotonic())
            self._changed.wait_for(lambda: self._look is not None, left_s)
            return self._look or Look(None, f"{self._name} has not answered yet")

    def _run(self) -> None:
        with ExitStack() as opened:
            while self._still_wanted():
                look = self._attempt(opened)
                self.known = look.value or self.known
                with self._changed:
                    self._look = look
                    self._changed.notify_all()
                time.sleep(EVERY_S)

    def _still_wanted(self) -> bool:
        with self._changed:
            if time.monotonic() > self._wanted_until:
                self._thread = self._read = None
            return self._thread is not None

    def _attempt(self, opened: ExitStack) -> Look[T]:
        try:
            if self._read is None:
                self._read = opened.enter_context(self._reading())
            return Look(self._read())
        except _EXPECTED as error:
            return Look(None, str(error))
        except Exception as error:  # whatever it is, the thread has to live on
            name = type(error).__name__
            log.error("%s can't be read: %s", self._name, name)
            return Look(None, f"{self._name} can't be read ({name})")


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
    def retained(self) -> int:
        return sum(figures.end - figures.start for figures in self.partitions)


class KafkaReader(Generic[T]):
    """Reads of Kafka with a consumer that it is handed, and an admin client."""

    def __init__(self, reader: Consumer) -> None:
        self._reader = reader

    def read(self, admin: AdminClient) -> T:
        raise NotImplementedError

    def log(self, topic: Topic) -> Log:
        """The topic's log, read with little patience."""
        return Log(self._reader, topic, PATIENCE_S)


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
        group = topics.describe_group(admin, settings.KAFKA_GROUP_ID, topic.name)
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
            letter.code == WRONG_PARTITION and letter.place not in self.redriven
            for letter in self.letters
        )


class LettersReader(KafkaReader[KeptLetters]):
    """Reads the end of the dead-letter topic, and then what comes."""

    def __init__(self, reader: Consumer) -> None:
        super().__init__(reader)
        self._topic: Topic | None = None
        self._kept: DeadLetters | None = None

    def read(self, admin: AdminClient) -> KeptLetters:
        topic = topics.describe(admin, settings.KAFKA_DLQ_TOPIC)
        kept = self._kept
        if kept is None or topic != self._topic or len(kept.letters) > MOST_LETTERS:
            kept = DeadLetters(self.log(topic), LAST_LETTERS)
            self._topic, self._kept = topic, kept
        kept.read()
        newest = sorted(kept.letters.values(), key=lambda one: -one.kept_ms)
        return KeptLetters(newest[:LAST_LETTERS], {**kept.redriven}, kept.retained)


@dataclass(frozen=True, slots=True)
class TableFigures:
    """The table as it answered: its incarnation, and in what time."""

    identity: str
    answer_ms: float


def read_table() -> TableFigures:
    """Ask the table for a sign of life; raises StoreUnavailable."""
    started = time.monotonic()
    identity = profiles().identity()
    return TableFigures(identity, (time.monotonic() - started) * 1000)


@contextmanager
def reading(make: Callable[[Consumer], KafkaReader[T]]) -> Iterator[Callable[[], T]]:
    """Reads with clients of its own, and closes them."""
    enquiry = topics.Enquiry(connections.admin)
    with connections.group_reader() as reader, closing(enquiry):
        yield partial(enquiry.ask, make(reader).read)


@cache
def flow() -> Observer[Flow]:
    """This process's view of the topic and its group."""
    return Observer("Kafka", lambda: reading(partial(FlowReader, store=_store)))


@cache
def letters() -> Observer[KeptLetters]:
    """This process's view of the dead letters."""
    return Observer("Dead letters", lambda: reading(LettersReader))


@cache
def table() -> Observer[TableFigures]:
    """This process's view of the table."""
    return Observer("DynamoDB", lambda: nullcontext(read_table))


def _store() -> str | None:
    known = table().known
    return None if known is None else known.identity
