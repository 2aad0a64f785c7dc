"""The topic: what it is, and what it was a moment ago."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from threading import Event, Thread
from typing import Any

import pytest
from confluent_kafka import KafkaError

from profiles.core.updates import Receipt
from profiles.kafka import groups, topics
from profiles.kafka.groups import Group
from profiles.kafka.topics import (
    KafkaUnavailable,
    Topic,
    TopicMissing,
    Watch,
    WrongTopic,
)
from profiles.runtime import background
from profiles.runtime.gates import Gate
from tests.fakes import TOPIC, FakeAdmin

RECREATED = Topic(TOPIC.name, "topic-2", TOPIC.partitions)


@pytest.fixture
def admin(settings):
    """A cluster with the topic."""
    from profiles.operate.provision import provision_topic, topic_plans

    settings.KAFKA_PARTITIONS = TOPIC.partitions
    admin: Any = FakeAdmin()
    plan = topic_plans(TOPIC.name, "dlq", TOPIC.partitions, -1)[0]
    provision_topic(admin, plan)
    return admin


def test_a_topic_is_its_id_and_its_partitions(admin):
    assert topics.describe(admin, TOPIC.name) == TOPIC


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (KafkaError.UNKNOWN_TOPIC_OR_PART, TopicMissing, "manage.py provision"),
        (KafkaError._TRANSPORT, KafkaUnavailable, "_TRANSPORT"),
        (KafkaError._TIMED_OUT, KafkaUnavailable, "_TIMED_OUT"),
    ],
)
def test_without_an_answer_the_error_says_what_to_do(admin, code, kind, said):
    admin.failure = code
    with pytest.raises(kind, match=said):
        topics.describe(admin, TOPIC.name)


@pytest.mark.parametrize("configured", [8, 24])
def test_another_partition_count_is_a_wrong_topic(admin, settings, configured):
    settings.KAFKA_PARTITIONS = configured
    said = f"9 partitions .* KAFKA_PARTITIONS is {configured}"
    with pytest.raises(WrongTopic, match=said):
        topics.configured(admin)


def test_a_topic_that_was_grown_is_read_where_that_is_asked_for(admin, settings):
    settings.KAFKA_PARTITIONS = 6
    assert topics.configured(admin, grown=True) == TOPIC
    settings.KAFKA_PARTITIONS = 12
    with pytest.raises(WrongTopic, match=r"9 partitions .* KAFKA_PARTITIONS is 12"):
        topics.configured(admin, grown=True)


def test_one_client_answers_for_topic_and_group(admin, monkeypatch):
    """It is false while nothing is in flight."""
    monkeypatch.setattr(FakeAdmin, "__bool__", lambda self: False, raising=False)
    group = Group("EMPTY", {})
    monkeypatch.setattr(groups, "describe_group", lambda *_: group)
    clients = [admin]
    query = topics.AdminConnection(clients.pop).query
    assert query(topics.configured) == TOPIC
    assert query(groups.configured_group) == group
    assert query(topics.configured) == TOPIC


class Queries:
    """A connection, and the clients that it made; `silent` ones get no answer."""

    def __init__(self, answering: FakeAdmin) -> None:
        self.made: list[FakeAdmin] = []
        self.silent = False
        self._answering = answering
        make: Any = self._make
        self._connection = topics.AdminConnection(make)

    def answered(self) -> bool:
        """Whether a query for the topic is answered."""
        try:
            return self._connection.query(topics.configured) == TOPIC
        except KafkaUnavailable:
            return False

    def closed(self) -> list[bool]:
        return [admin.closed for admin in self.made]

    def _make(self) -> FakeAdmin:
        admin = FakeAdmin()
        admin.topics = self._answering.topics
        admin.failure = KafkaError._TIMED_OUT if self.silent else None
        self.made.append(admin)
        return admin


@pytest.fixture
def queries(admin):
    return Queries(admin)


def test_a_client_that_answers_is_kept_though_nothing_is_in_flight(queries):
    assert all(queries.answered() for _ in range(100))
    assert queries.closed() == [False]
    assert not queries.made[0]


def test_a_client_without_an_answer_is_closed_and_replaced(queries):
    queries.silent = True
    assert not queries.answered()
    queries.silent = False
    assert queries.answered()
    assert queries.closed() == [True, False]


def test_a_long_silence_ends_few_clients_and_leaves_one_at_most(queries):
    queries.silent = True
    assert not any(queries.answered() for _ in range(50))
    assert 5 < len(queries.made) < 20
    assert queries.closed().count(False) <= 1


def test_each_silence_begins_with_a_new_client(queries):
    for _ in range(10):
        assert queries.answered()
        before = len(queries.made)
        queries.made[-1].failure = KafkaError._TIMED_OUT
        assert not queries.answered()
        assert queries.answered()
        assert len(queries.made) == before + 1


def test_a_topic_that_is_missing_is_an_answer_and_ends_no_client(queries):
    queries.answered()
    queries.made[0].failure = KafkaError.UNKNOWN_TOPIC_OR_PART
    assert not any(queries.answered() for _ in range(10))
    assert queries.closed() == [False]


class Reads:
    """What a watch reads: answers and errors in turn, the last one again and again."""

    def __init__(self, *answers: Topic | Exception) -> None:
        self.answers = [*answers]

    def __call__(self) -> Topic:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def watch(monkeypatch):
    """Makes watches that read once, and then only for a caller that wants it newer."""
    monkeypatch.setattr(background, "EVERY_S", 60)
    watches = []

    def make(*answers: Topic | Exception) -> Watch:
        watch = Watch(Reads(*answers), 4)
        watches.append(watch)
        return watch

    yield make
    for each in watches:
        end(each)


def end(watch: Watch) -> None:
    """End its thread; it pauses, so wake it."""
    reader = watch._background
    with reader._changed:
        reader._wanted_until = 0
        reader._wanted_after = time.monotonic()
        reader._changed.notify_all()


def read_again(watch: Watch) -> None:
    """Have the watch read once more, whatever comes of it."""
    now = time.monotonic()
    assert watch._background.newer_than(now, now + 5).began > now


def test_a_watch_has_the_topic_as_it_last_was(watch):
    seen = watch(TOPIC, RECREATED)
    assert seen.current() == TOPIC
    assert seen.current() == TOPIC
    read_again(seen)
    assert seen.current() == RECREATED


def test_a_short_silence_changes_nothing(watch):
    seen = watch(TOPIC, KafkaUnavailable("away"))
    assert seen.current() == TOPIC
    read_again(seen)
    assert seen.current() == TOPIC


def test_a_long_silence_is_an_error(watch, monkeypatch):
    monkeypatch.setattr(topics, "SILENCE_S", 0)
    seen = watch(TOPIC, KafkaUnavailable("away"), TOPIC)
    assert seen.current() == TOPIC
    read_again(seen)
    with pytest.raises(KafkaUnavailable, match="away"):
        seen.current()
    read_again(seen)
    assert seen.current() == TOPIC


def test_a_topic_that_became_wrong_is_an_error_at_once(watch):
    seen = watch(TOPIC, WrongTopic("grown"))
    assert seen.current() == TOPIC
    read_again(seen)
    with pytest.raises(WrongTopic, match="grown"):
        seen.current()
    with pytest.raises(WrongTopic, match="grown"):
        seen.since(-math.inf)


def test_a_silence_after_a_wrong_topic_does_not_bring_the_right_one_back(watch):
    seen = watch(TOPIC, WrongTopic("grown"), KafkaUnavailable("away"))
    assert seen.current() == TOPIC
    for _ in range(2):
        read_again(seen)
        with pytest.raises(WrongTopic, match="grown"):
            seen.current()


def test_without_an_answer_in_time_kafka_is_unavailable(stalled, monkeypatch):
    seen, _ = stalled
    monkeypatch.setattr(topics, "DESCRIBE_TIMEOUT_S", -1)
    with pytest.raises(KafkaUnavailable, match="not answered yet"):
        seen.current()


def test_a_fresh_reading_is_one_that_began_after_the_request(watch):
    seen = watch(TOPIC, RECREATED)
    assert seen.current() == TOPIC
    assert seen.is_still(TOPIC.id, 5) is False
    assert seen.current() == RECREATED


def test_a_silence_is_no_fresh_reading(watch):
    seen = watch(TOPIC, KafkaUnavailable("away"))
    assert seen.current() == TOPIC
    with pytest.raises(KafkaUnavailable, match="away"):
        seen.since(time.monotonic())
    assert seen.current() == TOPIC
    assert seen.is_still(TOPIC.id, 5) is False


@pytest.fixture
def stalled():
    """A watch whose reading does not end before the test does; one thread may wait."""
    reading, release = Event(), Event()

    def read() -> Topic:
        reading.set()
        release.wait(10)
        return TOPIC

    seen = Watch(read, capacity=1)
    yield seen, reading
    end(seen)
    release.set()


def test_a_request_waits_for_a_fresh_reading_no_longer_than_its_answer_may(
    stalled, monkeypatch
):
    seen, _ = stalled
    monkeypatch.setattr(topics, "FRESH_S", 0.05)
    with pytest.raises(KafkaUnavailable, match="not answered yet"):
        seen.since(0)


def _request(seen: Watch) -> None:
    with suppress(KafkaUnavailable):
        seen.since(0)


def test_no_more_threads_wait_for_a_fresh_reading_than_may(stalled, monkeypatch):
    """The others answer the probes, while Kafka is silent."""
    seen, reading = stalled
    monkeypatch.setattr(topics, "FRESH_S", 5)
    monkeypatch.setattr("profiles.runtime.gates.FIRST_S", 0.05)
    monkeypatch.setattr("profiles.runtime.gates.STALLED_S", 0.05)
    monkeypatch.setattr(seen, "_gate", Gate(1))
    first = Thread(target=_request, args=[seen])
    first.start()
    assert reading.wait(5)
    with pytest.raises(KafkaUnavailable, match="too many requests"):
        seen.since(0)
    assert first.is_alive()


@pytest.mark.parametrize(
    ("reported", "written"),
    [
        ("AaIC7NhUfiCg+mEmggfRQg", "AaIC7NhUfiCg-mEmggfRQg"),
        ("AaIC7NhUfiCg/mEmggfRQg", "AaIC7NhUfiCg_mEmggfRQg"),
    ],
)
def test_a_topic_id_can_stand_in_an_address_and_in_a_receipt(reported, written):
    assert topics._topic_id("t", reported) == written
    assert Receipt.parse(f"{written}.3.0").source.topic_id == written


@pytest.mark.parametrize("reported", [None, "A" * 22])
def test_a_broker_without_topic_ids_needs_an_epoch(reported, settings):
    with pytest.raises(WrongTopic, match="set KAFKA_TOPIC_EPOCH"):
        topics._topic_id("t", reported)
    settings.KAFKA_TOPIC_EPOCH = "first"
    assert topics._topic_id("t", reported) == "first"
