"""A consumer group as Kafka describes it: its state, its members, who owns what."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupState, KafkaError, KafkaException

from profiles.kafka import topics
from profiles.kafka.topics import Group, KafkaUnavailable
from tests.fakes import TOPIC, Answer


class FakeAdmin:
    """Describes one group."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def describe_consumer_groups(self, groups, request_timeout: float) -> Any:
        return {groups[0]: Answer(self.answer)}


def member(client, *partitions, topic=TOPIC.name):
    places = [SimpleNamespace(topic=topic, partition=p) for p in partitions]
    assignment = SimpleNamespace(topic_partitions=places)
    names = {"client_id": client, "member_id": f"{client}-1"}
    return SimpleNamespace(**names, host="/10.0.0.1", assignment=assignment)


def described(answer):
    admin: Any = FakeAdmin(answer)
    return topics.describe_group(admin, "group", TOPIC.name)


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
