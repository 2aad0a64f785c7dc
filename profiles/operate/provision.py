"""Provisioning: the topic, the dead-letter topic and the table, created or compared.

In: clients, and what is configured. Out: what was created, and how what exists differs
from it. Changes nothing that exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from profiles.core import items
from profiles.dynamodb.client import StoreUnavailable, code_of, trouble

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import CreateTableInputTypeDef

ADMIN_TIMEOUT_S = 15.0
REPLICAS = 3
BATCH_BYTES = 1_048_588
"""Kafka's default. The producer's batches are smaller, and an update is far smaller."""
DEAD_LETTER_BYTES = 4 * 1024 * 1024
EXISTS = "exists"


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """A topic as it should be."""

    name: str
    partitions: int
    config: dict[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A topic or the table, whether it was created, and how it differs, in sentences."""

    subject: str
    state: str
    differences: tuple[str, ...] = ()


def topic_plans(
    topic: str, dead_letters: str, partitions: int, retention_ms: int
) -> list[TopicPlan]:
    """The topic and its dead-letter topic.

    Neither is compacted: compaction keeps the last record of a key only, and partial
    updates would lose fields. By default nothing is ever deleted.
    """
    updates = {
        "cleanup.policy": "delete",
        "retention.ms": str(retention_ms),
        "max.message.bytes": str(BATCH_BYTES),
        "message.timestamp.type": "LogAppendTime",
    }
    letters = {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "max.message.bytes": str(DEAD_LETTER_BYTES),
    }
    return [TopicPlan(topic, partitions, updates), TopicPlan(dead_letters, 1, letters)]


def provision_topic(admin: AdminClient, plan: TopicPlan) -> Outcome:
    """Create the topic, or compare the existing one; raises KafkaException."""
    brokers = len(admin.list_topics(timeout=ADMIN_TIMEOUT_S).brokers)
    plan = replace(plan, config={**plan.config, **_durability(brokers)})
    replicas = min(REPLICAS, brokers)
    new = NewTopic(
        plan.name, plan.partitions, replication_factor=replicas, config=plan.config
    )
    created = admin.create_topics([new], operation_timeout=ADMIN_TIMEOUT_S)[plan.name]
    subject = f"topic {plan.name}"
    try:
        created.result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
        differences = [*_shape(admin, plan, replicas), *_config(admin, plan)]
        return Outcome(subject, EXISTS, tuple(differences))
    size = f"{plan.partitions} partitions, replicas: {replicas}"
    return Outcome(subject, f"created with {size}")


def provision_table(client: DynamoDBClient, table: str) -> Outcome:
    """Create the table and wait until it is active, or compare the existing one.

    Raises StoreUnavailable or StoreRefused.
    """
    subject, definition = f"table {table}", items.table_definition(table)
    try:
        if _creates(client, definition):
            return Outcome(subject, "created")
        found = client.describe_table(TableName=table)["Table"]
    except (BotoCoreError, ClientError) as error:
        raise StoreUnavailable(trouble(table, error)) from None
    (key,) = definition["AttributeDefinitions"]
    same_key = found["KeySchema"] == definition["KeySchema"]
    if same_key and key in found["AttributeDefinitions"]:
        return Outcome(subject, EXISTS)
    difference = (
        f"its key is not the string {items.KEY}, so it can't be used: set "
        "DYNAMODB_TABLE to another name"
    )
    return Outcome(subject, EXISTS, (difference,))


def _creates(client: DynamoDBClient, definition: CreateTableInputTypeDef) -> bool:
    """Whether the table had to be created; returns when it is active."""
    try:
        client.create_table(**definition)
    except ClientError as error:
        if code_of(error) == "ResourceInUse":
            return False
        raise
    client.get_waiter("table_exists").wait(
        TableName=definition["TableName"], WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )
    return True


def _durability(brokers: int) -> dict[str, str]:
    """With three brokers, an acknowledged record survives the loss of one."""
    if brokers < REPLICAS:
        return {}
    return {"min.insync.replicas": "2", "unclean.leader.election.enable": "false"}


def _shape(admin: AdminClient, plan: TopicPlan, replicas: int) -> Iterator[str]:
    found = admin.list_topics(plan.name, timeout=ADMIN_TIMEOUT_S).topics[plan.name]
    if len(found.partitions) != plan.partitions:
        yield f"it has {len(found.partitions)} partitions, configured are {plan.partitions}"
    fewest = min(len(each.replicas) for each in found.partitions.values())
    if fewest < replicas:
        yield (
            f"a partition has {fewest} replicas, and the cluster has brokers for "
            f"{replicas}: add replicas"
        )


def _config(admin: AdminClient, plan: TopicPlan) -> Iterator[str]:
    """Each property that the broker reports and that has another value."""
    resource = ConfigResource(ResourceType.TOPIC, plan.name)
    future = admin.describe_configs([resource], request_timeout=ADMIN_TIMEOUT_S)
    actual = future[resource].result()
    for name, value in plan.config.items():
        if name in actual and actual[name].value != value:
            yield f"{name} is {actual[name].value}, configured is {value}"
