"""A scene of trouble: a topic, a table and a group of its own, on shared engines.

In: engines that run. Out: processes of ours to start and to harm, records put on the
topic, and what became of them. Imports nothing of the product.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from tests.chaos.judge import Verdict, judge
from tests.chaos.observed import (
    Accepted,
    Item,
    Observed,
    Place,
    read_dead_letters,
    read_items,
    read_log,
)
from tests.chaos.proxy import Proxy
from tests.engines.process import wait_until
from tests.engines.real import Broker, DynamoDBLocal, KafkaCluster
from tests.stack import Member, Stack, Web, stack_on

PARTITIONS = 3
SESSION_S = 3
"""After so long the group takes a silent member for dead."""

numbers = count(1)


@dataclass(frozen=True)
class Engines:
    """What the scenes of a module share."""

    directory: Path
    kafka: KafkaCluster
    dynamodb: DynamoDBLocal

    @property
    def broker(self) -> Broker:
        return self.kafka.brokers[0]


@contextmanager
def engines(
    directory: Path, brokers: int = 1, **properties: object
) -> Iterator[Engines]:
    """Real ones; a property's underscores stand for dots."""
    dotted = {name.replace("_", "."): value for name, value in properties.items()}
    with (
        KafkaCluster(directory, brokers, properties=dotted) as kafka,
        DynamoDBLocal(directory) as dynamodb,
    ):
        yield Engines(directory, kafka, dynamodb)


class Consuming(Member):
    """A consumer whose calls to the table go through a proxy of its own."""

    def __init__(
        self, directory: Path, environ: Mapping[str, str], name: str, proxy: Proxy
    ) -> None:
        with_proxy = {**environ, "DYNAMODB_ENDPOINT_URL": proxy.endpoint_url}
        super().__init__(directory, with_proxy, name)
        self.proxy = proxy

    def times(self, text: bytes) -> int:
        """How often it has said this since its last start."""
        return self.log.read_bytes()[self._said_before :].count(text)

    def wait_said(self, text: bytes, timeout_s: float = 30) -> None:
        wait_until(lambda: self.said(text), timeout_s, f"{self.name}: no {text!r}")

    def threads(self) -> int:
        """How many it has, its clients' own included."""
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def last_line(self) -> str:
        return self.log.read_text().splitlines()[-1]

    def sigterm(self) -> float:
        """The seconds that it takes to end well; raises where it takes over 10."""
        began = time.monotonic()
        self.terminate()
        code = self.exit_code(10)
        if code != 0:
            raise AssertionError(f"{self.name} ended with {code}: see {self.log}")
        return time.monotonic() - began


class Scene:
    """Its processes end with it; the engines go on."""

    def __init__(self, shared: Engines, ends: ExitStack, name: str) -> None:
        self.engines = shared
        self.topic = self.table = f"{name}-{next(numbers)}"
        self.dead_letter_topic = f"{self.topic}.dlq"
        self.accepted: list[Accepted] = []
        self._ends = ends
        self._values = count(1)
        directory = shared.directory / self.topic
        directory.mkdir()
        servers = shared.kafka.bootstrap_servers
        on_engines = stack_on(directory, servers, shared.dynamodb.endpoint_url)
        environ = {
            **on_engines.environ,
            "KAFKA_TOPIC": self.topic,
            "KAFKA_PARTITIONS": str(PARTITIONS),
            "DYNAMODB_TABLE": self.table,
        }
        self.stack = Stack(directory, environ)
        self.admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
        self.dynamodb = self.stack.dynamodb()
        self._reader = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": f"profiles-{self.table}",
                "log_level": 0,
            }
        )
        ends.callback(self._reader.close)

    def provision(self) -> None:
        self.stack.manage("provision")

    # Processes

    def member(self, name: str = "consumer", **environ: str) -> Consuming:
        """A consumer, not started yet."""
        proxy = Proxy(self.engines.dynamodb.port)
        self._ends.callback(proxy.close)
        member = Consuming(
            self.stack.directory, {**self.stack.environ, **environ}, name, proxy
        )
        self._ends.callback(member.kill)
        return member

    def joined(self, name: str = "consumer", **environ: str) -> Consuming:
        """A consumer that has its partitions."""
        member = self.member(name, **environ)
        member.start()
        member.wait_ready()
        return member

    def web(self, **environ: str) -> Web:
        """A web process, not started yet."""
        web = Web(self.stack.directory, {**self.stack.environ, **environ})
        self._ends.callback(web.kill)
        return web

    # Records

    def update(self, patient: str, **fields: str) -> Message:
        """Put an update on the topic, and see it there."""
        (message,) = self.updates([patient], **fields)
        return message

    def updates(self, patients: list[str], **fields: str) -> list[Message]:
        """An update for each, no body like another one."""
        bodies = [
            {"PatientId": patient, "LastName": f"name-{next(self._values)}", **fields}
            for patient in patients
        ]
        sent = time.monotonic()
        messages = self.produce(
            [(body["PatientId"].encode(), json.dumps(body).encode()) for body in bodies]
        )
        topic_id, times = self.topic_id(), (sent, time.monotonic())
        for body, message in zip(bodies, messages, strict=True):
            place = Place(topic_id, message.partition() or 0, message.offset() or 0)
            self.accepted.append(
                Accepted("test", body["PatientId"], body, place, *times)
            )
        return messages

    def load(self, number: int, patients: int = 50) -> list[Message]:
        chosen = random.Random(number).choices(range(patients), k=number)
        return self.updates([f"patient-{each}" for each in chosen])

    def produce(
        self, records: list[tuple[bytes | None, bytes | None]], **options: Any
    ) -> list[Message]:
        """Put keys and values on the topic, and see them acknowledged."""
        producer = Producer(
            {
                "bootstrap.servers": self.stack.bootstrap_servers,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "message.max.bytes": 2_000_000,
                "log_level": 0,
            }
        )
        placed: dict[int, Message] = {}
        for index, (key, value) in enumerate(records):

            def note(error: Any, message: Message, index: int = index) -> None:
                if error is None:
                    placed[index] = message

            producer.produce(self.topic, value, key, on_delivery=note, **options)
        producer.flush(30)
        return [placed[index] for index in range(len(records))]

    # What became of them

    def topic_id(self) -> str:
        """As Kafka writes it; librdkafka writes `+` and `/`."""
        for _ in range(10):
            with suppress(KafkaException, TimeoutError):
                return self._told_id().translate(str.maketrans("+/", "-_"))
        raise TimeoutError(f"Kafka did not tell the id of topic {self.topic}")

    def _told_id(self) -> str:
        """Asked of a new client: an old one goes on asking a broker that died."""
        servers = self.stack.bootstrap_servers
        admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
        described = admin.describe_topics(TopicCollection([self.topic]))
        return str(described[self.topic].result(5).topic_id)

    def item(self, patient: str) -> Item:
        key = {"PatientId": {"S": patient}}
        answer = self.dynamodb.get_item(
            TableName=self.table, Key=key, ConsistentRead=True
        )
        return answer.get("Item", {})

    def items(self) -> dict[str, Item]:
        return read_items(self.dynamodb, self.table)

    def committed(self) -> dict[int, int]:
        """Partition to offset, as far as anything is committed."""
        places = [TopicPartition(self.topic, each) for each in range(PARTITIONS)]
        found = self._reader.committed(places, timeout=5)
        return {place.partition: place.offset for place in found if place.offset >= 0}

    def marks(self) -> dict[int, str]:
        """Partition to what its offset is committed for."""
        places = [TopicPartition(self.topic, each) for each in range(PARTITIONS)]
        found = self._reader.committed(places, timeout=5)
        return {place.partition: place.metadata or "" for place in found}

    def ends(self) -> dict[int, int]:
        """Partition to the offset after its last record, where it has any."""
        places = [TopicPartition(self.topic, each) for each in range(PARTITIONS)]
        highs = {
            place.partition: self._reader.get_watermark_offsets(place, timeout=5)[1]
            for place in places
        }
        return {partition: high for partition, high in highs.items() if high > 0}

    def is_settled(self) -> bool:
        """Whether the group has committed all that is on the topic."""
        try:
            return self.committed() == self.ends()
        except KafkaException:
            return False

    def settle(self, timeout_s: float = 60) -> None:
        wait_until(self.is_settled, timeout_s, "the group had not caught up")

    def dead_letters(self) -> frozenset[Place]:
        """Where the dead letters came from."""
        return read_dead_letters(self.stack.bootstrap_servers, self.dead_letter_topic)

    def assert_sound(self) -> None:
        """Every item is the fold of its patient's records; nothing is missing."""
        verdict = self._verdict()
        assert not verdict.damaged, verdict

    def wait_sound(self, timeout_s: float = 60) -> None:
        """For a table that is filled anew, though its group had committed all."""
        wait_until(
            lambda: not self._verdict().damaged, timeout_s, "the table was not whole"
        )

    def _verdict(self) -> Verdict:
        return judge(
            Observed(
                accepted=self.accepted,
                log=read_log(self.stack.bootstrap_servers, self.topic),
                dead_letters=self.dead_letters(),
                items=self.items(),
                partitions=PARTITIONS,
            )
        )

    # What an operator may do, on purpose or by accident

    def commit(self, place: TopicPartition) -> None:
        self._reader.commit(offsets=[place], asynchronous=False)

    def reset_to_earliest(self, table: str = "") -> None:
        """As `kafka-consumer-groups.sh --reset-offsets --to-earliest --execute`."""
        places = [TopicPartition(self.topic, each) for each in range(PARTITIONS)]
        for place in places:
            place.offset, _ = self._reader.get_watermark_offsets(place, timeout=5)
        group = f"profiles-{table or self.table}"
        request = [ConsumerGroupTopicPartitions(group, places)]
        self.admin.alter_consumer_group_offsets(request)[group].result(10)

    def forget_commits(self) -> None:
        group = f"profiles-{self.table}"
        self.admin.delete_consumer_groups([group])[group].result(10)

    def delete_topic(self, topic: str) -> None:
        self.admin.delete_topics([topic])[topic].result(10)
        wait_until(
            lambda: topic not in self.admin.list_topics(timeout=5).topics,
            10,
            f"topic {topic} was still there",
        )

    def delete_records(self, partition: int, before: int) -> None:
        place = TopicPartition(self.topic, partition, before)
        self.admin.delete_records([place])[place].result(10)

    def set_config(self, topic: str, name: str, value: str) -> None:
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(
            ResourceType.TOPIC, topic, incremental_configs=[entry]
        )
        self.admin.incremental_alter_configs([resource])[resource].result(10)
