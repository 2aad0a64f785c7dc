"""The consumer group: its members, and what it has committed.

In: an admin client, or a consumer with the group's id that joins nothing. Out: who owns
which partition, committed offsets, whether all is read. Never commits.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass

from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, MemberDescription
from django.conf import settings

from profiles.kafka.topics import (
    DESCRIBE_TIMEOUT_S,
    KafkaUnavailable,
    WrongTopic,
    unavailable,
)

READ_TIMEOUT_S = 5.0
RESTART_S = 60.0
"""How long to wait for a broker that restarts, or a coordinator that moves."""


# Members


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group; `owners` by partition, None where the broker hides them.

    `members` are the ids that the coordinator gave, or took: empty where it hides them.
    """

    state: str
    owners: Mapping[int, str] | None
    members: Set[str] = frozenset()

    def may_have(self, member_id: str | None) -> bool:
        """Whether this member is in the group; true where the broker hides members.

        A member that has sent its request to join is in it, however long the
        rebalance takes.
        """
        if self.members or self.state in _WITHOUT_MEMBERS:
            return member_id in self.members
        return True


_WITHOUT_MEMBERS = {ConsumerGroupState.EMPTY.name, ConsumerGroupState.DEAD.name}


def configured_group(admin: AdminClient) -> Group:
    """The configured group, as it is now; raises KafkaUnavailable."""
    return describe_group(admin, settings.KAFKA_GROUP_ID, settings.KAFKA_TOPIC)


def describe_group(admin: AdminClient, group_id: str, topic: str) -> Group:
    """The group, and who owns which partition of the topic; raises KafkaUnavailable."""
    future = admin.describe_consumer_groups(
        [group_id], request_timeout=DESCRIBE_TIMEOUT_S
    )[group_id]
    try:
        found = future.result(timeout=DESCRIBE_TIMEOUT_S + 1)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return Group("EMPTY", {})
        raise unavailable(error) from None
    except TimeoutError as error:
        raise unavailable(error) from None
    if found.state == ConsumerGroupState.STABLE and not found.members:
        return Group(found.state.name, None)  # Tansu describes no members
    members = frozenset(member.member_id for member in found.members)
    return Group(found.state.name, _owners(found.members, topic), members)


def _owners(members: Iterable[MemberDescription], topic: str) -> dict[int, str]:
    return {
        owned.partition: f"{member.client_id} at {member.host.removeprefix('/')}"
        for member in members
        for owned in member.assignment.topic_partitions
        if owned.topic == topic
    }


# Committed offsets


def committed(
    group: Consumer, partitions: list[TopicPartition], patience_s: float = RESTART_S
) -> list[TopicPartition]:
    """What the group committed for these partitions; waits for a coordinator to move.

    Raises KafkaUnavailable after `patience_s`.
    """
    by = time.monotonic() + patience_s
    while True:
        try:
            return committed_now(group, partitions, min(READ_TIMEOUT_S, patience_s))
        except KafkaUnavailable:
            if time.monotonic() > by:
                raise
        time.sleep(0.5)


def committed_now(
    group: Consumer, partitions: list[TopicPartition], timeout_s: float = READ_TIMEOUT_S
) -> list[TopicPartition]:
    """As `committed`, with one attempt."""
    try:
        found = group.committed(partitions, timeout=timeout_s)
    except KafkaException as error:
        kafka_error = error.args[0]
        if kafka_error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            raise WrongTopic(
                "Kafka refuses to report what the group committed "
                f"({kafka_error.name()}): check the rights of this process"
            ) from None
        raise unavailable(error) from None
    for each in found:
        if each.error is not None:
            raise unavailable(KafkaException(each.error))
    return found


def all_read(group: Consumer, topic: str, partitions: Collection[int]) -> bool:
    """Whether the group has committed these partitions to their end.

    `group` has the group's id but joins nothing. The end is where a fetch finds it:
    ListOffsets misleads on some brokers, and after control records.
    """
    wanted = [TopicPartition(topic, partition) for partition in partitions]
    for each in committed(group, wanted):
        start = max(each.offset, 0)
        group.incremental_assign([TopicPartition(topic, each.partition, start)])
    try:
        return _only_ends(group, set(partitions))
    finally:
        group.unassign()


def _only_ends(reader: Consumer, partitions: set[int]) -> bool:
    """Whether the first event of each assigned partition is its end."""
    by = time.monotonic() + READ_TIMEOUT_S
    while partitions and time.monotonic() < by:
        for message in reader.consume(100, 0.2):
            error = message.error()
            if error is None or error.code() != KafkaError._PARTITION_EOF:
                return False
            partitions.discard(message.partition() or 0)
    return not partitions
