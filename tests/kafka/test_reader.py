"""Records as Kafka's client gives them, whatever a foreign producer made of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    Message,
    Producer,
    TopicPartition,
)

from profiles.core.records import InvalidRecord
from profiles.core.serializers import decode
from profiles.kafka.reader import record_of
from tests.engines import librdkafka
from tests.engines.process import wait_until
from tests.fakes import SOURCE

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="looks for librdkafka where Linux has it"
)

TOPIC = "patient-profile"


@pytest.fixture
def servers() -> Iterator[str]:
    """A mock cluster of librdkafka's own, which makes topics by itself."""
    cluster = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1})
    (broker,) = cluster.list_topics(timeout=10).brokers.values()
    yield f"{broker.host}:{broker.port}"
    cluster.flush(1)


def read_one(servers: str) -> Message:
    reader = Consumer({"bootstrap.servers": servers, "group.id": "test"})
    partitions = reader.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions
    reader.assign([TopicPartition(TOPIC, at, OFFSET_BEGINNING) for at in partitions])
    found: list[Message] = []

    def read() -> bool:
        found.extend(reader.consume(1, 1))
        return bool(found)

    wait_until(read, 20, "no record")
    reader.close()
    return found[0]


def test_a_header_s_name_that_is_no_text_hides_no_update(servers):
    body = b'{"PatientId": "1", "Sex": "Other"}'
    headers = {b"\xff\xfe": b"x", b"trace": b"y"}
    librdkafka.produce(servers, TOPIC, b"1", body, headers)
    record = record_of(read_one(servers), SOURCE)
    assert decode(record, 1).fields == {"Sex": "Other"}
    assert dict(record.headers).keys() == {"headers-lost"}


def test_a_dead_letter_with_such_a_name_says_that_its_headers_are_lost(servers):
    librdkafka.produce(servers, TOPIC, b"1", b"{", {b"\xff\xfe": b"x"})
    record = record_of(read_one(servers), SOURCE)
    with pytest.raises(InvalidRecord):
        decode(record, 1)
    assert record.value == b"{"
    assert dict(record.headers).keys() == {"headers-lost"}
