"""The log, and its records as Kafka's client gives them, whatever a producer made."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from profiles.core.records import InvalidRecord
from profiles.core.serializers import decode
from profiles.core.updates import Incarnation, Source
from profiles.kafka import clients, reader
from profiles.kafka.reader import LogMoved, LogReader, record_of
from profiles.kafka.topics import KafkaUnavailable, Topic
from tests.engines import librdkafka
from tests.engines.process import wait_until
from tests.fakes import SOURCE

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="finds librdkafka where Linux has it"
)

TOPIC = "patient-profile"


def read_one(servers: str, topic: str = TOPIC) -> Message:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "test"})
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, at, OFFSET_BEGINNING) for at in partitions])
    found: list[Message] = []

    def read() -> bool:
        found.extend(consumer.consume(1, 1))
        return bool(found)

    wait_until(read, 20, "no record")
    consumer.close()
    return found[0]


def test_a_header_s_name_that_is_no_text_hides_no_update(servers):
    body = b'{"PatientId": "1", "Sex": "Other"}'
    headers = {b"\xff\xfe": b"x", b"trace": b"y"}
    librdkafka.produce(servers, TOPIC, b"1", body, headers)
    record = record_of(read_one(servers), SOURCE)
    assert decode(record, 1).fields == {"Sex": "Other"}
    assert dict(record.headers).keys() == {"headers-lost"}


def test_such_a_name_is_survived_however_many_records_came_before(servers):
    """Python calls C directly where it has done so often, and checks for no error then."""
    librdkafka.produce(servers, TOPIC, b"1", b"{}", {b"trace": b"y"})
    before = read_one(servers)
    for _ in range(1000):
        assert record_of(before, SOURCE).headers == [("trace", b"y")]
    librdkafka.produce(servers, f"{TOPIC}-2", b"1", b"{}", {b"\xff\xfe": b"x"})
    record = record_of(read_one(servers, f"{TOPIC}-2"), SOURCE)
    assert dict(record.headers).keys() == {"headers-lost"}


def test_a_dead_letter_with_such_a_name_says_that_its_headers_are_lost(servers):
    librdkafka.produce(servers, TOPIC, b"1", b"{", {b"\xff\xfe": b"x"})
    record = record_of(read_one(servers), SOURCE)
    with pytest.raises(InvalidRecord):
        decode(record, 1)
    assert record.value == b"{"
    assert dict(record.headers).keys() == {"headers-lost"}


# The log


VALUES = [f"record {offset}".encode() for offset in range(5)]
SECOND = Source("topic-1", 1)


@pytest.fixture
def log(servers, settings) -> Iterator[LogReader]:
    """Four partitions; the second holds five records, the third one, the others none."""
    settings.KAFKA_BOOTSTRAP_SERVERS = servers
    producer = clients.producer()
    for value in VALUES:
        producer.produce(TOPIC, value, b"1", partition=1)
    producer.produce(TOPIC, b"another", b"2", partition=2)
    assert producer.flush(20) == 0
    with closing(clients.group_reader()) as consumer:
        yield LogReader(consumer, Topic(TOPIC, SECOND.topic_id, 4), patience_s=20)


def test_the_spans_are_what_each_partition_holds(log):
    assert log.spans() == {0: range(0), 1: range(5), 2: range(1), 3: range(0)}


def test_the_spans_of_some_partitions_can_be_read_alone(log):
    assert log.spans([1]) == {1: range(5)}


def test_the_records_of_the_spans_are_read_in_order_and_no_others(log):
    records = [*log.records({1: range(1, 4), 2: range(1), 3: range(0)})]
    ours = [record for record in records if record.source == SECOND]
    assert [record.offset for record in ours] == [1, 2, 3]
    assert [record.value for record in ours] == VALUES[1:4]
    assert {record.key for record in ours} == {b"1"}
    assert all(record.timestamp_ms > 0 for record in records)
    others = [record for record in records if record.source != SECOND]
    assert [(o.source, o.value) for o in others] == [(Source("topic-1", 2), b"another")]


def test_reading_ends_with_the_spans_though_the_log_goes_on(log):
    assert [record.offset for record in log.records({1: range(2)})] == [0, 1]


def test_a_log_can_be_read_again_and_in_between(log):
    first = log.records({1: range(5)})
    assert next(first).offset == 0
    first.close()
    assert len([*log.records({1: range(5)})]) == 5


def test_the_records_of_a_key_are_found_and_the_bytes_of_all_are_counted(log):
    producer = clients.producer()
    producer.produce(TOPIC, b"of another", b"3", partition=1)
    assert producer.flush(20) == 0
    found, size = log.search(b"1", 1, range(1, 6))
    assert [record.value for record in found] == VALUES[1:]
    assert {record.source for record in found} == {SECOND}
    assert size == len(b"".join(VALUES[1:]) + b"of another")


def test_offsets_that_the_log_does_not_have_are_an_error(log):
    """Reading on from another offset would leave records out in silence."""
    with pytest.raises(LogMoved):
        [*log.records({1: range(50, 60)})]


@pytest.mark.parametrize(
    ("mark", "store", "counts"),
    [
        (Incarnation("topic-1", "table-1"), "table-1", True),
        (Incarnation("topic-1", "table-1"), None, True),
        (Incarnation("topic-1", "table-1"), "table-2", False),
        (Incarnation("topic-0", "table-1"), "table-1", False),
        (Incarnation("topic-0", "table-1"), None, False),
        ("", "table-1", True),
    ],
    ids=str,
)
def test_what_the_group_committed_counts_for_its_topic_and_table(
    log, mark, store, counts
):
    offset = TopicPartition(TOPIC, 1, 3, metadata=str(mark))
    log._consumer.commit(offsets=[offset], asynchronous=False)
    assert log.committed(store) == ({1: 3} if counts else {})


def test_a_partial_batch_is_returned_without_waiting_for_a_full_one(log, monkeypatch):
    monkeypatch.setattr(reader, "FETCH_S", 60)
    assert len([*log.records({1: range(5)})]) == 5
    assert log.spans([1]) == {1: range(5)}


def test_a_log_that_nobody_answers_for_is_kafka_away(settings):
    settings.KAFKA_BOOTSTRAP_SERVERS = "127.0.0.1:1"
    with closing(clients.group_reader()) as consumer:
        log = LogReader(consumer, Topic(TOPIC, "topic-1", 1), patience_s=0.1)
        for read in (log.spans, lambda: [*log.records({0: range(1)})]):
            with pytest.raises(KafkaUnavailable):
                read()
