"""Topics from outside any group: what a topic is, and whether it is read to its end."""

from __future__ import annotations

import time
from contextlib import suppress
from threading import Event, Thread
from typing import Any

import pytest
from confluent_kafka import (
    KafkaError,
    KafkaException,
    TopicPartition,
)

from profiles.core.updates import Receipt
from profiles.kafka import topics
from profiles.kafka.topics import (
    Group,
    KafkaUnavailable,
    Topic,
    TopicMissing,
    Watch,
    WrongTopic,
)
from profiles.runtime.gates import Gate
from tests.fakes import TOPIC, FakeAdmin, FakeMessage, message


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
    ("code", "kind", "told"),
    [
        (KafkaError.UNKNOWN_TOPIC_OR_PART, TopicMissing, "manage.py provision"),
        (KafkaError._TRANSPORT, KafkaUnavailable, "_TRANSPORT"),
        (KafkaError._TIMED_OUT, KafkaUnavailable, "_TIMED_OUT"),
    ],
)
def test_a_topic_that_is_not_told_is_an_error_that_says_what_to_do(
    admin, code, kind, told
):
    admin.failure = code
    with pytest.raises(kind, match=told):
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


def test_topic_and_group_are_asked_of_one_client(admin, monkeypatch):
    """It is false while nothing is in flight."""
    monkeypatch.setattr(FakeAdmin, "__bool__", lambda self: False, raising=False)
    group = Group("EMPTY", {})
    monkeypatch.setattr(topics, "describe_group", lambda *asked: group)
    clients = [admin]
    ask = topics.AdminConnection(clients.pop).ask
    assert ask(topics.configured) == TOPIC
    assert ask(topics.configured_group) == group
    assert ask(topics.configured) == TOPIC


@pytest.mark.parametrize(
    ("group", "has"),
    [
        (Group("STABLE", {}, frozenset({"a", "b"})), True),
        (Group("PREPARING_REBALANCING", {}, frozenset({"a"})), True),
        (Group("STABLE", {0: "b"}, frozenset({"b"})), False),
        (Group("EMPTY", {}), False),
        (Group("DEAD", {}), False),
        (Group("STABLE", None), True),
        (Group("UNKNOWN", {}), True),
    ],
)
def test_a_group_has_a_member_unless_it_says_otherwise(group, has):
    """Tansu names none, in any state."""
    assert group.may_have("a") is has
    assert group.may_have(None) is (has and not group.members)


class Asked:
    """An admin_connection, and the clients that it made: `deaf` ones hear nothing."""

    def __init__(self, heard: FakeAdmin) -> None:
        self.made: list[FakeAdmin] = []
        self.deaf = False
        self._heard = heard
        make: Any = self._make
        self._admin_connection = topics.AdminConnection(make)

    def look(self) -> bool:
        """Whether the topic was told."""
        try:
            return self._admin_connection.ask(topics.configured) == TOPIC
        except KafkaUnavailable:
            return False

    def closed(self) -> list[bool]:
        return [admin.closed for admin in self.made]

    def _make(self) -> FakeAdmin:
        admin = FakeAdmin()
        admin.topics = self._heard.topics
        admin.failure = KafkaError._TIMED_OUT if self.deaf else None
        self.made.append(admin)
        return admin


@pytest.fixture
def asked(admin):
    return Asked(admin)


def test_a_client_that_answers_is_kept_though_nothing_is_in_flight(asked):
    assert all(asked.look() for _ in range(100))
    assert asked.closed() == [False]
    assert not asked.made[0]


def test_a_client_that_hears_nothing_is_closed_and_replaced(asked):
    asked.deaf = True
    assert not asked.look()
    asked.deaf = False
    assert asked.look()
    assert asked.closed() == [True, False]


def test_a_long_silence_ends_few_clients_and_leaves_one_at_most(asked):
    asked.deaf = True
    assert not any(asked.look() for _ in range(50))
    assert 5 < len(asked.made) < 20
    assert asked.closed().count(False) <= 1


def test_each_silence_begins_with_a_new_client(asked):
    for _ in range(10):
        assert asked.look()
        before = len(asked.made)
        asked.made[-1].failure = KafkaError._TIMED_OUT
        assert not asked.look()
        assert asked.look()
        assert len(asked.made) == before + 1


def test_a_topic_that_is_missing_is_an_answer_and_ends_no_client(asked):
    asked.look()
    asked.made[0].failure = KafkaError.UNKNOWN_TOPIC_OR_PART
    assert not any(asked.look() for _ in range(10))
    assert asked.closed() == [False]


class Reads:
    """What a watch reads: answers and errors in turn."""

    def __init__(self, *answers: Topic | Exception) -> None:
        self.answers = [*answers]

    def __call__(self) -> Topic:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def watch(monkeypatch):
    """A watch that looks only when it is told to."""

    def make(*answers: Topic | Exception) -> Watch:
        watch = Watch(Reads(*answers), 4)
        monkeypatch.setattr(watch, "_start", lambda: None)
        return watch

    return make


def test_a_watch_tells_the_topic_as_it_last_was(watch):
    recreated = Topic(TOPIC.name, "topic-2", TOPIC.partitions)
    seen = watch(TOPIC, recreated)
    seen._look()
    assert seen.current() == TOPIC
    seen._look()
    assert seen.current() == recreated


def test_a_short_silence_is_no_news(watch):
    seen = watch(TOPIC, KafkaUnavailable("away"))
    seen._look()
    seen._look()
    assert seen.current() == TOPIC


def test_a_long_silence_is_an_error(watch, monkeypatch):
    monkeypatch.setattr(topics, "SILENCE_S", -1)
    seen = watch(TOPIC, KafkaUnavailable("away"), TOPIC)
    seen._look()
    seen._look()
    with pytest.raises(KafkaUnavailable, match="away"):
        seen.current()
    seen._look()
    assert seen.current() == TOPIC


def test_a_topic_that_became_wrong_is_an_error_at_once(watch):
    seen = watch(TOPIC, WrongTopic("grown"))
    seen._look()
    seen._look()
    with pytest.raises(WrongTopic, match="grown"):
        seen.current()


def test_without_an_answer_in_time_kafka_is_unavailable(watch, monkeypatch):
    monkeypatch.setattr(topics, "DESCRIBE_TIMEOUT_S", -1)
    with pytest.raises(KafkaUnavailable, match="not answered yet"):
        watch().current()


def test_a_look_since_a_moment_is_one_that_began_after_it(monkeypatch):
    recreated = Topic(TOPIC.name, "topic-2", TOPIC.partitions)
    answers = iter([TOPIC, recreated])
    seen = Watch(lambda: next(answers), 4)
    monkeypatch.setattr(topics, "WATCH_S", 60)
    assert seen.current() == TOPIC
    assert seen.current() == TOPIC
    assert seen.is_still(TOPIC.id, 5) is False
    assert seen.current() == recreated


def test_a_silence_is_no_look(monkeypatch):
    away = KafkaUnavailable("away")
    seen = Watch(Reads(TOPIC, away, away), 4)
    monkeypatch.setattr(topics, "WATCH_S", 60)
    assert seen.current() == TOPIC
    with pytest.raises(KafkaUnavailable, match="away"):
        seen.since(time.monotonic())
    assert seen.current() == TOPIC
    assert seen.is_still(TOPIC.id, 5) is False


@pytest.fixture
def stalled():
    """A watch whose look does not end before the test does; one thread may wait."""
    looking, release = Event(), Event()

    def read() -> Topic:
        looking.set()
        release.wait(10)
        return TOPIC

    seen = Watch(read, capacity=1)
    yield seen, looking
    release.set()


def test_a_look_is_waited_for_no_longer_than_an_answer_can(stalled, monkeypatch):
    seen, _ = stalled
    monkeypatch.setattr(topics, "LOOK_S", 0.05)
    with pytest.raises(KafkaUnavailable, match="in time"):
        seen.since(0)


def _asks(seen: Watch) -> None:
    with suppress(KafkaUnavailable):
        seen.since(0)


def test_no_more_threads_wait_for_a_look_than_may(stalled, monkeypatch):
    """The others answer the probes, while Kafka is silent."""
    seen, looking = stalled
    monkeypatch.setattr(topics, "LOOK_S", 5)
    monkeypatch.setattr("profiles.runtime.gates.FIRST_S", 0.05)
    monkeypatch.setattr("profiles.runtime.gates.STALLED_S", 0.05)
    monkeypatch.setattr(seen, "_gate", Gate(1))
    first = Thread(target=_asks, args=[seen])
    first.start()
    assert looking.wait(5)
    with pytest.raises(KafkaUnavailable, match="too many requests"):
        seen.since(0)
    assert first.is_alive()


class FakeReader:
    """A consumer outside the group, over partitions of a given length."""

    def __init__(self, committed: dict[int, int], lengths: dict[int, int]) -> None:
        self.stored, self.lengths = committed, lengths
        self.starts: dict[int, int] = {}

    def committed(self, places, timeout: float) -> list[TopicPartition]:
        return [
            TopicPartition(p.topic, p.partition, self.stored.get(p.partition, -1001))
            for p in places
        ]

    def incremental_assign(self, places) -> None:
        self.starts |= {place.partition: place.offset for place in places}

    def consume(self, number: int, timeout: float) -> list[Any]:
        found = []
        for partition, start in self.starts.items():
            if max(start, 0) < self.lengths[partition]:
                found.append(message(start, partition=partition))
            else:
                end = KafkaError._PARTITION_EOF
                found.append(FakeMessage(start, partition=partition, error=end))
        return found

    def unassign(self) -> None:
        self.starts = {}


@pytest.mark.parametrize(
    ("committed", "lengths", "read"),
    [
        ({0: 5, 1: 7}, {0: 5, 1: 7}, True),
        ({0: 5, 1: 6}, {0: 5, 1: 7}, False),
        ({0: 5}, {0: 5, 1: 0}, True),
        ({0: 5}, {0: 5, 1: 1}, False),
        ({}, {0: 0, 1: 0}, True),
    ],
    ids=["to the end", "one short", "one empty", "one unread", "all empty"],
)
def test_all_is_read_when_every_partition_is_committed_to_its_end(
    committed, lengths, read
):
    reader: Any = FakeReader(committed, lengths)
    assert topics.all_read(reader, TOPIC.name, [0, 1]) is read
    assert reader.starts == {}


def test_a_partition_without_a_commit_is_looked_at_from_its_beginning():
    reader: Any = FakeReader({}, {0: 0})
    starts = []
    reader.unassign = lambda: starts.append(reader.starts)
    topics.all_read(reader, TOPIC.name, [0])
    assert starts == [{0: 0}]


@pytest.mark.parametrize(
    ("told", "written"),
    [
        ("AaIC7NhUfiCg+mEmggfRQg", "AaIC7NhUfiCg-mEmggfRQg"),
        ("AaIC7NhUfiCg/mEmggfRQg", "AaIC7NhUfiCg_mEmggfRQg"),
    ],
)
def test_a_topic_id_can_stand_in_an_address_and_in_a_receipt(told, written):
    assert topics._id("t", told) == written
    assert Receipt.parse(f"{written}.3.0").source.topic_id == written


@pytest.mark.parametrize("told", [None, "A" * 22])
def test_a_broker_without_topic_ids_needs_an_epoch(told, settings):
    with pytest.raises(WrongTopic, match="set KAFKA_TOPIC_EPOCH"):
        topics._id("t", told)
    settings.KAFKA_TOPIC_EPOCH = "first"
    assert topics._id("t", told) == "first"


def test_a_group_that_is_forbidden_is_not_waited_for():
    class Forbidden:
        def committed(self, places, timeout):
            raise KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))

    group: Any = Forbidden()
    with pytest.raises(WrongTopic, match="check the rights"):
        topics.committed(group, [])
