"""What the tests of the pages have in common."""

from __future__ import annotations

import pytest

from profiles.dynamodb.writer import TableWriter
from profiles.kafka import topics
from profiles.kafka.topics import KafkaUnavailable
from tests.fakes import OURS, update_at


@pytest.fixture
def kafka(monkeypatch):
    """Kafka is away, unless a test says what it holds."""

    class Away:
        def current(self):
            raise KafkaUnavailable("Kafka does not answer")

    monkeypatch.setattr(topics, "watch", Away)


@pytest.fixture
def store(dynamodb):
    """Puts a patient's fields into the table."""
    table = TableWriter(dynamodb, "patient-profile")

    def store(patient="1", **fields):
        table.apply([update_at(0, patient, **fields)], OURS)

    return store
