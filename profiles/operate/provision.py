"""Provisioning: the topic, the dead-letter topic and the table, made and compared.

In: clients and what is configured. Out: sentences that say what was created, and what
was found different. Changes nothing that exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from profiles.core import items

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

ADMIN_TIMEOUT_S = 15.0
REPLICAS = 3
DEAD_LETTER_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """A topic as it should be."""

    name: str
    partitions: int
    config: dict[str, str]


def topic_plans(
    topic: str, dead_letters: str, partitions: int, retention_ms: int
) -> list[TopicPlan]:
    """The topic and its dead-letter topic.

    Compaction would keep the last record of a key only, and partial updates would lose
    fields: hence `delete`, and by default nothing is ever deleted.
    """
    kept = {"cleanup.policy": "delete", "retention.ms": str(retention_ms)}
    stamped = {**kept, "message.timestamp.type": "LogAppendTime"}
    large = {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "max.message.bytes": str(DEAD_LETTER_BYTES),
    }
    return [
        TopicPlan(topic, partitions, stamped),
        TopicPlan(dead_letters, 1, large),
    ]


def provision_topic(admin: AdminClient, plan: TopicPlan) -> Iterator[str]:
    """Create the topic, or tell how the one that exists differs from the plan."""
    brokers = len(admin.list_topics(timeout=ADMIN_TIMEOUT_S).brokers)
    copies = min(REPLICAS, brokers)
    config = {**plan.config, **_durability(brokers)}
    new = NewTopic(
        plan.name,
        num_partitions=plan.partitions,
        replication_factor=copies,
        config=config,
    )
    try:
        admin.create_topics([new], operation_timeout=ADMIN_TIMEOUT_S)[
            plan.name
        ].result()
        made = f"{plan.partitions} partitions, replicas: {copies}"
        yield f"topic {plan.name}: created with {made}"
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
        yield f"topic {plan.name}: exists"
        yield from _differences(admin, replace(plan, config=config), copies)


def provision_table(client: DynamoDBClient, table: str) -> Iterator[str]:
    """Create the table and wait for it, or tell how the one that exists differs."""
    definition = items.table_definition(table)
    try:
        client.create_table(**definition)
        client.get_waiter("table_exists").wait(
            TableName=table, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
        )
        yield f"table {table}: created"
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceInUseException":
            raise
        found = client.describe_table(TableName=table)["Table"]
        yield f"table {table}: exists"
        if found["KeySchema"] != definition["KeySchema"]:
            yield (
                f"table {table}: DIFFERENT: its key is not the string {items.KEY}; "
                "it can't be used: set DYNAMODB_TABLE to another name"
            )


def _durability(brokers: int) -> dict[str, str]:
    """What three brokers allow: an acknowledged record outlives the loss of one."""
    if brokers < REPLICAS:
        return {}
    return {"min.insync.replicas": "2", "unclean.leader.election.enable": "false"}


def _differences(admin: AdminClient, plan: TopicPlan, copies: int) -> Iterator[str]:
    found = admin.list_topics(plan.name, timeout=ADMIN_TIMEOUT_S).topics[plan.name]
    if len(found.partitions) != plan.partitions:
        yield (
            f"topic {plan.name}: DIFFERENT: it has {len(found.partitions)} partitions, "
            f"configured are {plan.partitions}"
        )
    kept = min(len(each.replicas) for each in found.partitions.values())
    if kept < copies:
        yield (
            f"topic {plan.name}: DIFFERENT: it keeps a record {kept} times, and the "
            f"cluster could {copies} times: give its partitions more replicas"
        )
    resource = ConfigResource(ResourceType.TOPIC, plan.name)
    future = admin.describe_configs([resource], request_timeout=ADMIN_TIMEOUT_S)
    actual = future[resource].result()
    for name, value in plan.config.items():
        if name in actual and actual[name].value != value:
            yield (
                f"topic {plan.name}: DIFFERENT: {name} is {actual[name].value}, "
                f"configured is {value}"
            )
