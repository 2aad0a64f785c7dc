"""What an outage leaves of the clients in this process: nothing, uncollected (Linux)."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from typing import Any

import pytest

from profiles.kafka import clients, dead_letters, flow, topics
from profiles.kafka.dead_letters import DeadLetterWriter
from profiles.kafka.topics import KafkaUnavailable
from tests.engines.process import free_port, wait_until
from tests.kafka.test_dead_letters import letters

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")


@pytest.fixture(autouse=True)
def away(settings, monkeypatch):
    """Nobody listens where Kafka should; each client that hears nothing is replaced."""
    settings.KAFKA_BOOTSTRAP_SERVERS = f"127.0.0.1:{free_port()}"
    monkeypatch.setattr(topics, "DESCRIBE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(topics, "FIRST_SILENCES", 1)
    monkeypatch.setattr(dead_letters, "ATTEMPT_S", 0.05)


@pytest.fixture
def left():
    """Threads and descriptors more than before the test, with no help of the collector."""

    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

    gc.collect()
    gc.disable()
    threads, descriptors = held()
    yield lambda: (held()[0] - threads, held()[1] - descriptors)
    gc.enable()


def nothing(left: Any) -> None:
    wait_until(lambda: max(left()) <= 0, 10, "something was left behind")


def test_looks_at_the_topic_leave_nothing(left):
    admin_connection = topics.AdminConnection(clients.admin)
    for _ in range(5):
        with pytest.raises(KafkaUnavailable):
            admin_connection.query(topics.configured)
    nothing(left)


def test_figures_that_nobody_looks_at_any_more_leave_nothing(left):
    def ask(admin):
        with suppress(KafkaUnavailable):
            topics.configured(admin)

    with flow.connected(lambda consumer: ask) as read:
        read()
        assert min(left()) > 0
    nothing(left)


def test_a_command_that_asks_once_leaves_nothing(left):
    with pytest.raises(KafkaUnavailable), clients.admin() as admin:
        topics.configured(admin)
    nothing(left)


def test_dead_letters_that_are_not_taken_leave_nothing(left):
    topic = DeadLetterWriter(clients.dead_letter_producer, "dead-letters")
    written = letters(b"a", b"b")
    for _ in range(3):
        assert topic.put(written) == written
    nothing(left)
