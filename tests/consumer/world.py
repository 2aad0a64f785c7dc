"""A consumer with fakes on every side, and what may happen to it."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaError

from profiles.consumer.changes import ChangeDetector
from profiles.consumer.loop import ProfileConsumer
from profiles.core import items
from profiles.core.updates import Incarnation
from profiles.dynamodb.writer import TableWriter
from profiles.kafka.groups import Group
from profiles.kafka.topics import Topic
from tests.fakes import (
    TOPIC,
    Clock,
    FakeDynamoDB,
    FakeKafkaConsumer,
    FakeMessage,
    refusal,
)

GROUP = Group("STABLE", {}, frozenset({"member"}))
RECREATED = Topic(TOPIC.name, "topic-2", TOPIC.partitions)

OURS = Incarnation(TOPIC.id, "store")
MARK = f"{TOPIC.id} store"


class World:
    """A consumer with fakes all round; nothing happens before `turn`."""

    def __init__(
        self,
        clock: Clock,
        turns: list[Any],
        table: FakeDynamoDB | None = None,
        kafka: FakeKafkaConsumer | None = None,
    ) -> None:
        self.kafka = kafka or FakeKafkaConsumer(clock, turns)
        self.table = table or FakeDynamoDB()
        self.topics: list[Topic | Exception] = []
        self.stores: list[str | None] = []
        self.group: Group | Exception = GROUP
        self.letters: list[tuple[int, str]] = []
        self.letters_refused = 0
        made: Any = self.kafka.made
        client: Any = self.table
        self.consumer = ProfileConsumer(
            made,
            ChangeDetector(self.topic, self.store, self.read_group, "store"),
            TOPIC.partitions,
            TableWriter(client, "t").apply,
            self.dead_letter,
        )
        self.thread: Any = self.consumer._writer._thread
        self.kafka.subscribe(
            [], self.consumer._on_assign, self.consumer._on_revoke, None
        )

    def turn(self) -> None:
        """A turn, and what it began to write is written and committed."""
        self.consumer.turn()
        self.consumer._end()

    def topic(self) -> Topic:
        """What is in `topics`, once each; then the topic as it was."""
        answer = self.topics.pop(0) if self.topics else TOPIC
        if isinstance(answer, Exception):
            raise answer
        return answer

    def read_group(self) -> Group:
        if isinstance(self.group, Exception):
            raise self.group
        return self.group

    def store(self) -> str | None:
        """What is in `stores`, once each; then the table as it was."""
        return self.stores.pop(0) if self.stores else "store"

    def dead_letter(self, letters):
        if self.letters_refused:
            self.letters_refused -= 1
            return [*letters]
        self.letters += [(each.record.offset, each.reason.code) for each in letters]
        return []

    def shown(self) -> dict[str, str]:
        return names(self.table, "1")


def names(table: FakeDynamoDB, patient: str) -> dict[str, str]:
    profile = items.profile(table.items[patient])
    return {name: profile[name] for name in profile if name.endswith("Name")}


def end(partition: int = 0, at: int = 9) -> FakeMessage:
    eof = KafkaError._PARTITION_EOF
    return FakeMessage(at, partition=partition, error=eof)


def not_committed() -> KafkaError:
    return KafkaError(KafkaError.REQUEST_TIMED_OUT)


def throttled() -> Exception:
    return refusal("ThrottlingException")
