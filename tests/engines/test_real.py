"""The real engines keep what they acknowledged through kill -9, and die with us."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from tests.engines.kafka import murmur2_partitions
from tests.engines.process import is_free, wait_until
from tests.engines.real import DynamoDBLocal, KafkaCluster

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

pytestmark = pytest.mark.real

CHECKOUT = Path(__file__).parents[2]


def create_topic(cluster: KafkaCluster) -> None:
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers})
    topic = NewTopic("accounts", num_partitions=1)
    admin.create_topics([topic], operation_timeout=10)["accounts"].result(15)


def produce(cluster: KafkaCluster, count: int) -> None:
    """Produce with acks=all, and see every record acknowledged."""
    refused: list[object] = []
    producer = Producer(
        {"bootstrap.servers": cluster.bootstrap_servers, "enable.idempotence": True}
    )
    for number in range(count):
        producer.produce(
            "accounts",
            key="1",
            value=str(number),
            on_delivery=lambda error, _: refused.append(error) if error else None,
        )
    assert producer.flush(30) == 0
    assert refused == []


def consume(cluster: KafkaCluster, count: int) -> list[int]:
    settings = {"bootstrap.servers": cluster.bootstrap_servers, "group.id": "reader"}
    consumer = Consumer(settings)
    consumer.assign([TopicPartition("accounts", 0, 0)])
    records = consumer.consume(count, timeout=30)
    consumer.close()
    return [int(record.value() or -1) for record in records]


def client(dynamodb: DynamoDBLocal) -> DynamoDBClient:
    return boto3.client(
        "dynamodb",
        endpoint_url=dynamodb.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def test_a_killed_broker_keeps_its_records_and_its_address(tmp_path):
    with KafkaCluster(tmp_path) as cluster:
        address = cluster.bootstrap_servers
        create_topic(cluster)
        produce(cluster, 100)
        cluster.kill()
        cluster.start()
        cluster.wait_ready()
        assert cluster.bootstrap_servers == address
        assert consume(cluster, 100) == list(range(100))


def test_a_stopped_cluster_can_be_made_again_from_its_directory(tmp_path):
    with KafkaCluster(tmp_path) as cluster:
        create_topic(cluster)
        produce(cluster, 10)
        cluster.stop()
    with KafkaCluster(tmp_path) as cluster:
        assert consume(cluster, 10) == list(range(10))


def test_three_brokers_accept_records_while_one_is_dead(tmp_path):
    with KafkaCluster(tmp_path, brokers=3) as cluster:
        create_topic(cluster)
        cluster.brokers[0].kill()
        produce(cluster, 100)
        assert consume(cluster, 100) == list(range(100))
        cluster.brokers[0].start()
        cluster.brokers[0].wait_ready()


def test_added_properties_reach_the_broker(tmp_path):
    with KafkaCluster(tmp_path, properties={"log.segment.bytes": 1048576}) as cluster:
        create_topic(cluster)
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers})
        topic = ConfigResource(ConfigResource.Type.TOPIC, "accounts")
        config = admin.describe_configs([topic])[topic].result(10)
        assert config["segment.bytes"].value == "1048576"


def test_a_suspended_engine_is_not_ready_until_it_is_resumed(tmp_path):
    with DynamoDBLocal(tmp_path) as dynamodb:
        dynamodb.suspend()
        assert not dynamodb.is_ready()
        dynamodb.resume()
        assert dynamodb.is_ready()


def test_a_table_survives_the_kill_of_dynamodb(tmp_path):
    item = {"Id": {"S": "1"}, "Balance": {"N": "12"}}
    with DynamoDBLocal(tmp_path) as dynamodb:
        client(dynamodb).create_table(
            TableName="accounts",
            KeySchema=[{"AttributeName": "Id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "Id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        client(dynamodb).put_item(TableName="accounts", Item=item)
        dynamodb.kill()
        dynamodb.start()
        dynamodb.wait_ready()
        assert client(dynamodb).scan(TableName="accounts")["Items"] == [item]


def test_the_engines_end_with_an_owner_that_was_killed():
    owner = subprocess.Popen(
        [sys.executable, "-m", "tests.engines.real"],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with owner:
        assert owner.stdout is not None
        ports = listening_ports(json.loads(owner.stdout.readline()))
        os.kill(owner.pid, signal.SIGKILL)
    wait_until(lambda: all(map(is_free, ports)), 10, "the ports were not free")


def test_the_command_ends_when_its_input_does():
    command = [sys.executable, "-m", "tests.engines.real"]
    done = subprocess.run(
        command, cwd=CHECKOUT, input=b"", capture_output=True, timeout=60
    )
    assert done.returncode == 0
    assert all(map(is_free, listening_ports(json.loads(done.stdout))))


def listening_ports(addresses: dict[str, str]) -> list[int]:
    return [int(address.rpartition(":")[2]) for address in addresses.values()]


def test_the_java_producer_hashes_with_murmur2():
    # murmur2(b"21") is -973932308 in Kafka's own tests
    expected = (-973932308 & 0x7FFFFFFF) % 12
    assert murmur2_partitions([b"21", b"", b"\xc3\xa9"], 12)[0] == expected
