"""What the web process and the consumer of a run have reached."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from devstack import services
from profiles.kafka import clients, topics
from profiles.kafka.topics import KafkaUnavailable
from tests.fakes import TOPIC, FakeAdmin


@pytest.fixture
def log(monkeypatch):
    """A log reader whose committed offsets and spans a test sets; it ends closed."""
    log: Any = SimpleNamespace(closed=0, offsets={}, retained={})
    log.committed = lambda store: log.offsets
    log.spans = lambda: log.retained
    log.close = lambda: setattr(log, "closed", log.closed + 1)
    monkeypatch.setattr(clients, "group_reader", lambda: log)
    monkeypatch.setattr(clients, "admin", FakeAdmin)
    monkeypatch.setattr(topics, "configured", lambda admin: TOPIC)
    monkeypatch.setattr(services, "LogReader", lambda *arguments: log)
    yield log
    assert log.closed == 1


@pytest.mark.parametrize(
    ("committed", "spans", "applied"),
    [
        ({0: 5}, {0: range(5)}, True),
        ({0: 4}, {0: range(5)}, False),
        ({0: 5}, {0: range(5), 1: range(1)}, False),
        ({}, {0: range(0)}, True),
    ],
    ids=["all", "not the last", "not each partition", "empty topic"],
)
def test_all_is_applied_if_every_partition_is_committed_to_its_end(
    log, committed, spans, applied
):
    log.offsets, log.retained = committed, spans
    assert services.all_is_applied() is applied


def test_nothing_is_known_to_be_applied_while_kafka_does_not_answer(log, monkeypatch):
    def away(admin):
        raise KafkaUnavailable("Kafka does not answer")

    monkeypatch.setattr(topics, "configured", away)
    assert services.all_is_applied() is False
