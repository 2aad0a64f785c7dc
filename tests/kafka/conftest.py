"""What the tests of Kafka's clients share: a cluster without a broker's process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka import Producer


@pytest.fixture
def servers() -> Iterator[str]:
    """A mock cluster of librdkafka's own, which makes topics by itself."""
    cluster = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1})
    (broker,) = cluster.list_topics(timeout=10).brokers.values()
    yield f"{broker.host}:{broker.port}"
    cluster.flush(1)
