"""The group from outside: its members, its offsets, and whether all is read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import (
    ConsumerGroupState,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from profiles.kafka import groups
from profiles.kafka.groups import Group
from profiles.kafka.topics import KafkaUnavailable, WrongTopic
from tests.fakes import TOPIC, Answer, FakeMessage, message


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
def test_a_member_is_in_its_group_unless_the_coordinator_says_otherwise(group, has):
    """Tansu lists no members, in any state."""
    assert group.may_have("a") is has
    assert group.may_have(None) is (has and not group.members)


class FakeReader:
    """A consumer outside the group, over partitions of a given length."""

    def __init__(self, committed: dict[int, int], lengths: dict[int, int]) -> None:
        self.stored, self.lengths = committed, lengths
        self.starts: dict[int, int] = {}

    def committed(self, partitions, timeout: float) -> list[TopicPartition]:
        return [
            TopicPartition(p.topic, p.partition, self.stored.get(p.partition, -1001))
            for p in partitions
        ]

    def incremental_assign(self, partitions) -> None:
        self.starts |= {each.partition: each.offset for each in partitions}

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
    assert groups.all_read(reader, TOPIC.name, [0, 1]) is read
    assert reader.starts == {}


def test_a_partition_without_a_commit_is_read_from_its_beginning():
    reader: Any = FakeReader({}, {0: 0})
    starts = []
    reader.unassign = lambda: starts.append(reader.starts)
    groups.all_read(reader, TOPIC.name, [0])
    assert starts == [{0: 0}]


def test_a_group_that_is_forbidden_is_not_waited_for():
    class Forbidden:
        def committed(self, partitions, timeout):
            raise KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))

    group: Any = Forbidden()
    with pytest.raises(WrongTopic, match="check the rights"):
        groups.committed(group, [])


class FakeAdmin:
    """Describes one group."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def describe_consumer_groups(self, groups, request_timeout: float) -> Any:
        return {groups[0]: Answer(self.answer)}


def member(client, *partitions, topic=TOPIC.name):
    owned = [SimpleNamespace(topic=topic, partition=p) for p in partitions]
    assignment = SimpleNamespace(topic_partitions=owned)
    names = {"client_id": client, "member_id": f"{client}-1"}
    return SimpleNamespace(**names, host="/10.0.0.1", assignment=assignment)


def described(answer):
    admin: Any = FakeAdmin(answer)
    return groups.describe_group(admin, "group", TOPIC.name)


def test_the_owner_of_each_partition_is_known():
    members = [member("a", 0, 1), member("b", 2), member("c", 3, topic="other")]
    group = SimpleNamespace(state=ConsumerGroupState.STABLE, members=members)
    assert described(group) == Group(
        "STABLE",
        {0: "a at 10.0.0.1", 1: "a at 10.0.0.1", 2: "b at 10.0.0.1"},
        frozenset({"a-1", "b-1", "c-1"}),
    )


def test_the_owners_of_a_stable_group_without_members_are_unknown():
    group = SimpleNamespace(state=ConsumerGroupState.STABLE, members=[])
    assert described(group).owners is None


@pytest.mark.parametrize(
    "answer",
    [
        SimpleNamespace(state=ConsumerGroupState.EMPTY, members=[]),
        KafkaException(KafkaError(KafkaError.GROUP_ID_NOT_FOUND)),
    ],
    ids=["left", "never there"],
)
def test_a_group_without_consumers_owns_nothing(answer):
    assert described(answer) == Group("EMPTY", {})


def test_a_group_that_kafka_does_not_describe_is_unavailable():
    with pytest.raises(KafkaUnavailable, match="_TRANSPORT"):
        described(KafkaException(KafkaError(KafkaError._TRANSPORT)))
