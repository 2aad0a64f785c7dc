"""The reader pool: kept for the next page, and none left behind by anything."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from profiles.kafka import clients, reader_pool
from profiles.kafka.reader import LogMoved
from profiles.kafka.reader_pool import ReaderPool
from profiles.kafka.topics import KafkaUnavailable, Topic
from profiles.runtime import gates
from tests.engines.process import wait_until
from tests.fakes import TOPIC

RECREATED = Topic(TOPIC.name, "topic-2", TOPIC.partitions)


class FakeConsumer:
    """Answers a query for the topic, unless Kafka is away."""

    def __init__(self, away: bool = False) -> None:
        self.away = away
        self.closed = False

    def list_topics(self, topic: str, timeout: float) -> None:
        if self.away:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    def close(self) -> None:
        self.closed = True


class Made(list[FakeConsumer]):
    """What the pool made, first to last; `away` is for the next ones."""

    away = False

    def __call__(self) -> Any:
        self.append(FakeConsumer(self.away))
        return self[-1]

    @property
    def open(self) -> list[FakeConsumer]:
        return [consumer for consumer in self if not consumer.closed]


@pytest.fixture
def made():
    return Made()


@pytest.fixture
def pool(made):
    return ReaderPool(made, 2)


def test_a_reader_is_kept_for_the_next_page(pool, made):
    for _ in range(5):
        with pool.reader(TOPIC) as log:
            assert log.topic == TOPIC
            assert log._consumer is made[0]
    assert len(made) == 1
    assert not made[0].closed


def test_two_pages_at_a_time_have_a_reader_each(pool, made):
    with pool.reader(TOPIC) as one, pool.reader(TOPIC) as other:
        assert one._consumer is not other._consumer
    with pool.reader(TOPIC), pool.reader(TOPIC):
        pass
    assert len(made) == 2


def test_no_more_read_at_a_time_than_may(pool, made, monkeypatch):
    monkeypatch.setattr(gates, "STALLED_S", 0.01)
    monkeypatch.setattr(pool._gate, "_patience_s", 0.01)
    with (
        pool.reader(TOPIC),
        pool.reader(TOPIC),
        pytest.raises(KafkaUnavailable, match="too many pages"),
        pool.reader(TOPIC),
    ):
        pass
    assert len(made) == 2


def test_a_recreated_topic_is_read_by_another_consumer(pool, made):
    """The first one takes the new leaders for old ones: their epochs are lower."""
    with pool.reader(TOPIC):
        pass
    with pool.reader(RECREATED) as log:
        assert log._consumer is made[1]
    assert [consumer.closed for consumer in made] == [True, False]


@pytest.mark.parametrize(
    "failure", [KafkaUnavailable("away"), LogMoved("cut"), ValueError()], ids=repr
)
def test_after_a_failure_the_consumer_is_closed_and_replaced(pool, made, failure):
    with pytest.raises(type(failure)), pool.reader(TOPIC):
        raise failure
    with pool.reader(TOPIC):
        pass
    assert [consumer.closed for consumer in made] == [True, False]


def test_an_outage_leaves_no_consumer_behind(pool, made):
    made.away = True
    for _ in range(20):
        with pytest.raises(KafkaUnavailable, match="_TRANSPORT"), pool.reader(TOPIC):
            pass
    assert made.open == []
    made.away = False
    with pool.reader(TOPIC):
        pass
    assert len(made.open) == 1


def test_without_any_client_for_kafka_the_reason_is_named(settings):
    settings.KAFKA_CONFIG = {"security.protocol": "SSL", "ssl.ca.location": "/nowhere"}
    pool = ReaderPool(clients.group_reader, 1)
    with pytest.raises(KafkaUnavailable, match="_INVALID_ARG"), pool.reader(TOPIC):
        pass


def test_idle_consumers_are_closed(pool, made, monkeypatch):
    monkeypatch.setattr(reader_pool, "IDLE_S", 0.05)
    with pool.reader(TOPIC), pool.reader(TOPIC):
        pass
    wait_until(lambda: not made.open, 5, "it is still open")
    assert pool._timer is None
    with pool.reader(TOPIC):
        pass
    wait_until(lambda: not made.open, 5, "it is still open")


def test_a_consumer_in_use_is_not_idle(pool, made, monkeypatch):
    monkeypatch.setattr(reader_pool, "IDLE_S", 0.05)
    with pool.reader(TOPIC), pool.reader(TOPIC):
        pass
    with pool.reader(TOPIC) as log:
        wait_until(lambda: len(made.open) == 1, 5, "the other one is still open")
        assert log._consumer is made.open[0]


def client_threads() -> int:
    """Those of librdkafka in this process."""
    names = Path("/proc/self/task").glob("*/comm")
    return sum(name.read_text().startswith("rdk:") for name in names)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_silent_broker_leaves_no_thread_behind(settings, monkeypatch):
    settings.KAFKA_BOOTSTRAP_SERVERS = "127.0.0.1:1"
    monkeypatch.setattr(reader_pool, "PAGE_PATIENCE_S", 0.05)
    pool, before = ReaderPool(clients.group_reader, 1), client_threads()
    for _ in range(5):
        with pytest.raises(KafkaUnavailable), pool.reader(TOPIC):
            pass
    wait_until(lambda: client_threads() <= before, 10, "a client is still there")
