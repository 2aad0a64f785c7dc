"""The reader that pages keep, on Apache Kafka: right at ends, cuts and markers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Producer

from profiles.core.records import key_of
from profiles.kafka import clients, topics
from profiles.kafka.reader import LogMoved
from profiles.kafka.reader_pool import ReaderPool
from profiles.kafka.topics import KafkaUnavailable, Topic
from tests.engines.process import wait_until
from tests.real.scene import PARTITIONS, Scene

pytestmark = pytest.mark.real

KEY = key_of("1")
PARTITION = 1


@dataclass
class Pages:
    """Reads the scene's topic as pages do, one after the other, with one consumer."""

    scene: Scene
    pool: ReaderPool

    def topic(self) -> Topic:
        with clients.admin() as admin:
            return topics.describe(admin, self.scene.topic)

    def span(self) -> range:
        with self.pool.reader(self.topic()) as log:
            return log.spans([PARTITION])[PARTITION]

    def offsets(self, span: range | None = None) -> list[int]:
        """Where the key's records are, in the whole log unless a span is given."""
        with self.pool.reader(self.topic()) as log:
            whole = log.spans([PARTITION])[PARTITION]
            found, _ = log.search(KEY, PARTITION, whole if span is None else span)
            return [record.offset for record in found]

    def put(self, number: int, key: bytes = KEY) -> None:
        records = [(key, b'{"PatientId": "1"}')] * number
        self.scene.produce([*records], partition=PARTITION)

    def kept(self) -> int:
        """The consumer that is kept, by its identity."""
        [idle] = self.pool._idle
        return id(idle.consumer)


@pytest.fixture
def pages(scene, settings) -> Iterator[Pages]:
    settings.KAFKA_BOOTSTRAP_SERVERS = scene.stack.bootstrap_servers
    settings.KAFKA_PARTITIONS = PARTITIONS
    pool = ReaderPool(clients.group_reader, 1)
    yield Pages(scene, pool)
    for kept in pool._idle:
        kept.consumer.close()
    if pool._timer is not None:
        pool._timer.cancel()


def test_one_consumer_reads_each_end_as_it_is_now(pages):
    assert pages.span() == range(0)
    kept = pages.kept()
    for end in (100, 200, 300):
        pages.put(100)
        assert pages.span() == range(end)
        assert pages.offsets() == [*range(end)]
        assert pages.offsets(range(10, 20)) == [*range(10, 20)]
    assert pages.kept() == kept


def test_a_log_that_was_trimmed_is_read_from_where_it_begins(pages):
    pages.put(100)
    assert pages.span() == range(100)
    pages.scene.delete_records(PARTITION, 40)
    with pytest.raises(LogMoved):
        pages.offsets(range(100))
    assert pages.span() == range(40, 100)
    assert pages.offsets() == [*range(40, 100)]
    pages.scene.delete_records(PARTITION, 100)
    assert pages.span() == range(100, 100)
    assert pages.offsets() == []


@pytest.fixture
def transactions(pages):
    """Starts a transaction of so many records; `commit` or `abort` it, or leave it."""
    producer = Producer(
        {
            "bootstrap.servers": pages.scene.stack.bootstrap_servers,
            "transactional.id": pages.scene.topic,
        }
    )
    producer.init_transactions(30)

    def begin(number: int) -> Producer:
        producer.begin_transaction()
        for _ in range(number):
            producer.produce(pages.scene.topic, b"{}", KEY, partition=PARTITION)
        producer.flush(30)
        return producer

    return begin


def test_a_span_may_end_with_the_marker_of_a_transaction(pages, transactions):
    """A marker has an offset, and is no record."""
    transactions(5).commit_transaction(30)
    assert pages.span() == range(6)
    assert pages.offsets() == [*range(5)]
    transactions(5).abort_transaction(30)
    assert pages.span() == range(12)
    assert pages.offsets() == [*range(5)]
    pages.put(3)
    assert pages.offsets() == [*range(5), 12, 13, 14]
    assert pages.offsets(range(4, 12)) == [4]


def test_an_open_transaction_holds_up_no_page(pages, transactions):
    pages.put(3)
    producer = transactions(5)
    assert pages.span().start == 0
    assert pages.offsets() == [*range(3)]
    producer.commit_transaction(30)
    assert pages.offsets() == [*range(8)]


def test_a_recreated_topic_is_read_by_another_consumer(pages):
    """The former one, whose leader's epoch was higher, would take it for an old view."""
    pages.put(50)
    assert pages.offsets() == [*range(50)]
    before = pages.kept()
    pages.scene.delete_topic(pages.scene.topic)
    pages.scene.provision()
    pages.put(3)
    assert pages.offsets() == [0, 1, 2]
    assert pages.kept() != before


def client_threads() -> int:
    names = Path("/proc/self/task").glob("*/comm")
    return sum(name.read_text().startswith("rdk:") for name in names)


def test_an_outage_is_an_error_that_leaves_nothing_behind(pages):
    pages.put(5)
    assert pages.offsets() == [*range(5)]
    topic, broker = pages.topic(), pages.scene.engines.broker
    threads, files = client_threads(), len(os.listdir("/proc/self/fd"))
    broker.kill()
    try:
        for _ in range(4):
            with (
                pytest.raises(KafkaUnavailable),
                pages.pool.reader(topic) as log,
            ):
                log.spans([PARTITION])
        wait_until(lambda: client_threads() < threads, 10, "a client is left")
        assert len(os.listdir("/proc/self/fd")) <= files
    finally:
        broker.start()
        broker.wait_ready()
    wait_until(lambda: _reads(pages), 30, "no reading after the outage")
    assert client_threads() == threads


def _reads(pages: Pages) -> bool:
    try:
        return pages.offsets() == [*range(5)]
    except KafkaUnavailable:
        return False
