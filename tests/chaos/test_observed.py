"""The judge's own readers see the whole topic, its dead letters and the table."""

from __future__ import annotations

import boto3
import pytest
from confluent_kafka import Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.chaos.observed import (
    Place,
    read_dead_letters,
    read_items,
    read_log,
    take_sample,
)
from tests.engines.real import DynamoDBLocal, KafkaCluster

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with KafkaCluster(tmp_path_factory.mktemp("kafka")) as cluster:
        yield cluster


def create_topic(cluster: KafkaCluster, name: str) -> str:
    """Create a topic of three partitions; returns its id."""
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers})
    admin.create_topics([NewTopic(name, 3)])[name].result(15)
    described = admin.describe_topics(TopicCollection([name]))[name].result(15)
    return str(described.topic_id).translate(str.maketrans("+/", "-_"))


def test_the_log_is_read_from_its_beginning_to_its_end(cluster):
    topic_id = create_topic(cluster, "log")
    producer = Producer({"bootstrap.servers": cluster.bootstrap_servers})
    for number in range(3000):
        producer.produce("log", str(number), str(number % 50), partition=number % 2)
    assert producer.flush(30) == 0
    log = read_log(cluster.bootstrap_servers, "log")
    assert [record.place for record in log] == [
        Place(topic_id, partition, offset)
        for partition in (0, 1)
        for offset in range(1500)
    ]
    assert {int(record.value or b"") for record in log} == set(range(3000))


def test_a_log_without_its_beginning_is_refused(cluster):
    create_topic(cluster, "shortened")
    settings = {"bootstrap.servers": cluster.bootstrap_servers}
    producer = Producer(settings)
    for number in range(10):
        producer.produce("shortened", str(number), partition=0)
    assert producer.flush(30) == 0
    shorten(AdminClient(settings), "shortened", before=4)
    with pytest.raises(ValueError, match="begins at offset 4"):
        read_log(cluster.bootstrap_servers, "shortened")


def shorten(admin: AdminClient, topic: str, before: int) -> None:
    for future in admin.delete_records([TopicPartition(topic, 0, before)]).values():
        future.result(15)


def test_a_dead_letter_names_the_place_that_it_came_from(cluster):
    create_topic(cluster, "dead")
    origin = {"topic-id": "MfpguAxWTvabZeKzPKu0Pg", "partition": "2", "offset": "7"}
    ours = [(f"dead-letter.{name}", text.encode()) for name, text in origin.items()]
    forged = [("dead-letter.offset", b"999"), ("other", None)]
    producer = Producer({"bootstrap.servers": cluster.bootstrap_servers})
    producer.produce("dead", b"not JSON", b"1", headers=[*forged, *ours])
    assert producer.flush(30) == 0
    assert read_dead_letters(cluster.bootstrap_servers, "dead") == {
        Place("MfpguAxWTvabZeKzPKu0Pg", 2, 7)
    }


def test_the_table_is_read_whole_and_one_item_at_a_time(tmp_path):
    with DynamoDBLocal(tmp_path) as dynamodb:
        client = boto3.client(
            "dynamodb",
            endpoint_url=dynamodb.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        client.create_table(
            TableName="profiles",
            KeySchema=[{"AttributeName": "PatientId", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "PatientId", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        # two pages of a scan: over 1 MB
        stored = {
            str(number): {"PatientId": {"S": str(number)}, "Note": {"S": "x" * 200_000}}
            for number in range(8)
        }
        for item in stored.values():
            client.put_item(TableName="profiles", Item=item)
        assert read_items(client, "profiles") == stored
        assert take_sample(client, "profiles", "3").item == stored["3"]
        assert take_sample(client, "profiles", "9").item is None
