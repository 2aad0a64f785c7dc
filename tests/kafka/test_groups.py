"""The group from outside: its members, its offsets, and whether all is read."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from profiles.kafka import groups
from profiles.kafka.groups import Group
from profiles.kafka.topics import WrongTopic
from tests.fakes import TOPIC, FakeMessage, message


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
