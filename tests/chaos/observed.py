"""What a fault run shows from outside: receipts, topics, items, samples.

In: the clients' notes, a broker's address, a DynamoDB client. Out: one `Observed`.
Imports nothing of the project and judges nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

READ_TIMEOUT_S = 120

Item = Mapping[str, Any]
"""As DynamoDB shows it: {"LastName": {"S": "Roe"}, ...}."""


class Place(NamedTuple):
    """Where a record stands; a topic made again under its name has another id."""

    topic_id: str
    partition: int
    offset: int


@dataclass(frozen=True)
class Accepted:
    """An update that a client saw accepted; all times are of one monotonic clock."""

    client: str
    patient: str
    body: Mapping[str, object] = field(repr=False)
    receipt: Place
    sent: float
    answered: float

    def to_line(self) -> str:
        return json.dumps(asdict(self) | {"receipt": self.receipt._asdict()})

    @classmethod
    def from_line(cls, line: str) -> Accepted:
        facts = json.loads(line)
        return cls(**facts | {"receipt": Place(**facts["receipt"])})


@dataclass(frozen=True)
class Logged:
    """A record as the topic holds it."""

    place: Place
    timestamp_ms: int
    key: bytes | None = field(repr=False)
    value: bytes | None = field(repr=False)


@dataclass(frozen=True)
class Sample:
    """One consistent read of an item, None where there was none."""

    patient: str
    taken: float
    item: Item | None = field(repr=False)


@dataclass(frozen=True)
class Observed:
    """All that was seen of one run; the table was at rest when it was read.

    The topic's keys are placed by `partitions`.
    """

    accepted: Sequence[Accepted]
    log: Sequence[Logged]
    dead_letters: frozenset[Place]
    items: Mapping[str, Item] = field(repr=False)
    partitions: int
    samples: Sequence[Sample] = ()


def read_accepted(notes: Path) -> list[Accepted]:
    with notes.open(encoding="utf-8") as lines:
        return [Accepted.from_line(line) for line in lines]


def read_log(bootstrap_servers: str, topic: str) -> list[Logged]:
    """Every record, by place; ValueError where the log begins past offset 0."""
    topic_id, messages = _read_topic(bootstrap_servers, topic)
    log = sorted(
        (_logged(topic_id, each) for each in messages), key=attrgetter("place")
    )
    firsts = {record.place.partition: record.place.offset for record in reversed(log)}
    for partition, first in firsts.items():
        if first > 0:
            raise ValueError(f"{topic}-{partition} begins at offset {first}, not at 0")
    return log


def read_dead_letters(bootstrap_servers: str, topic: str) -> frozenset[Place]:
    """The places that the records on the dead-letter topic came from."""
    _, messages = _read_topic(bootstrap_servers, topic)
    return frozenset(map(_origin, messages))


def read_items(dynamodb: DynamoDBClient, table: str) -> dict[str, Item]:
    """The table as it is, by PatientId."""
    pages = dynamodb.get_paginator("scan").paginate(
        TableName=table, ConsistentRead=True
    )
    return {item["PatientId"]["S"]: item for page in pages for item in page["Items"]}


def take_sample(dynamodb: DynamoDBClient, table: str, patient: str) -> Sample:
    """One consistent read; take a patient's samples one after the other."""
    taken = time.monotonic()
    answer = dynamodb.get_item(
        TableName=table, Key={"PatientId": {"S": patient}}, ConsistentRead=True
    )
    return Sample(patient, taken, answer.get("Item"))


def _read_topic(bootstrap_servers: str, topic: str) -> tuple[str, list[Message]]:
    """The topic's id and its messages from the beginning to the end of now."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    described = admin.describe_topics(TopicCollection([topic]))[topic].result(30)
    reader = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "judge",  # asked for, but never joined
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
        }
    )
    partitions = {partition.id for partition in described.partitions}
    reader.assign(
        [TopicPartition(topic, each, OFFSET_BEGINNING) for each in partitions]
    )
    try:
        topic_id = str(described.topic_id).translate(str.maketrans("+/", "-_"))
        return topic_id, list(_to_the_end(reader, partitions))
    finally:
        reader.close()


def _to_the_end(reader: Consumer, partitions: set[int]) -> Iterator[Message]:
    deadline = time.monotonic() + READ_TIMEOUT_S
    while partitions:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(partitions)} partitions not read to their end")
        for message in reader.consume(1000, timeout=1):
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                partitions.discard(message.partition() or 0)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                raise KafkaException(error)


def _logged(topic_id: str, message: Message) -> Logged:
    place = Place(topic_id, message.partition() or 0, message.offset() or 0)
    return Logged(place, message.timestamp()[1], message.key(), message.value())


def _origin(message: Message) -> Place:
    # A later header wins: the record's own, which stand before, may look like ours.
    facts: dict[str, Any] = dict(message.headers() or [])
    return Place(
        facts["dead-letter.topic-id"].decode(),
        int(facts["dead-letter.partition"]),
        int(facts["dead-letter.offset"]),
    )
