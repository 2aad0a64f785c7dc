"""The item: a patient's row in the DynamoDB table.

In: merged updates. Out: the conditional write that applies one, and the profile that
an item shows. Holds the fence's name and the table's definition. Plain Python: it
calls nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from profiles.updates import MergedUpdate, Receipt, Source

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import (
        AttributeValueTypeDef,
        BatchStatementRequestTypeDef,
        CreateTableInputTypeDef,
        TableDescriptionTypeDef,
        UpdateItemInputTypeDef,
    )

KEY = "PatientId"
MAX_KEY_BYTES = 2048
"""DynamoDB's limit; a validated PatientId is always shorter."""

UPDATED_AT = "UpdatedAt"
FENCE_PREFIX = "_fence:"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Item = Mapping[str, "AttributeValueTypeDef"]


def fence_name(source: Source) -> str:
    """The attribute that holds the last applied offset of one source.

    A top-level attribute: a nested SET fails where the map is missing, and one
    attribute keeps the condition to one comparison.
    """
    return f"{FENCE_PREFIX}{source.topic_id}:{source.partition}"


def upsert(table: str, update: MergedUpdate) -> UpdateItemInputTypeDef:
    """The one write that merges an update and moves the fence, or does nothing.

    It is refused (ConditionalCheckFailedException, with the item as it is) where the
    item already includes this offset: a redelivery, a replay, or the late write of a
    former owner.
    """
    written = _written(update)
    removed = _removed(update)
    names = {f"#{i}": name for i, name in enumerate([*written, *removed])}
    sets = [f"#{i} = :{i}" for i in range(len(written))]
    removals = [f"#{i}" for i in range(len(written), len(names))]
    values = {f":{i}": value for i, value in enumerate(written.values())}
    return {
        "TableName": table,
        "Key": {KEY: {"S": update.patient_id}},
        "UpdateExpression": f"SET #f = :f, {', '.join(sets)}"
        + (f" REMOVE {', '.join(removals)}" if removals else ""),
        "ConditionExpression": "attribute_not_exists(#f) OR #f < :f",
        "ExpressionAttributeNames": {**names, "#f": fence_name(update.source)},
        "ExpressionAttributeValues": {**values, ":f": {"N": str(update.offset)}},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


def update_statement(table: str, update: MergedUpdate) -> BatchStatementRequestTypeDef:
    """`upsert` as PartiQL, for an item that exists; one of up to 25 in a call.

    ConditionalCheckFailed means that there is no item, or that it includes the update.
    `NOT f >= ?` holds where the fence is missing, on every engine.
    """
    written = {**_written(update), fence_name(update.source): _fence(update)}
    sets = " ".join(f'SET "{name}"=?' for name in written)
    removals = " ".join(f'REMOVE "{name}"' for name in _removed(update))
    condition = f'"{KEY}"=? AND NOT "{fence_name(update.source)}" >= ?'
    return {
        "Statement": f'UPDATE "{table}" {sets} {removals} WHERE {condition}',
        "Parameters": [*written.values(), {"S": update.patient_id}, _fence(update)],
    }


def insert_statement(table: str, update: MergedUpdate) -> BatchStatementRequestTypeDef:
    """`upsert` as PartiQL, for a new item; DuplicateItem means that there is one."""
    written = {
        KEY: {"S": update.patient_id},
        **_written(update),
        fence_name(update.source): _fence(update),
    }
    members = ", ".join(f"'{name}': ?" for name in written)
    return {
        "Statement": f'INSERT INTO "{table}" VALUE {{{members}}}',
        "Parameters": list(written.values()),
    }


def includes(item: Item, place: MergedUpdate | Receipt) -> bool:
    """Whether the item's fence tells that it includes the update of this place."""
    fence = item.get(fence_name(place.source), {})
    return "N" in fence and int(fence["N"]) >= place.offset


def _written(update: MergedUpdate) -> dict[str, AttributeValueTypeDef]:
    supplied: dict[str, AttributeValueTypeDef] = {
        name: {"S": value} for name, value in update.fields.items() if value is not None
    }
    return {**supplied, UPDATED_AT: {"S": iso_timestamp(update.timestamp_ms)}}


def _removed(update: MergedUpdate) -> list[str]:
    return [name for name, value in update.fields.items() if value is None]


def _fence(update: MergedUpdate) -> AttributeValueTypeDef:
    return {"N": str(update.offset)}


def iso_timestamp(timestamp_ms: int) -> str:
    """Milliseconds since the epoch as ISO 8601 with milliseconds and UTC offset."""
    moment = _EPOCH + timedelta(milliseconds=timestamp_ms)
    return moment.isoformat(timespec="milliseconds")


def profile(item: Item) -> dict[str, str]:
    """The profile that an item shows: the posted fields and UpdatedAt, no fences."""
    return {name: value["S"] for name, value in item.items() if "S" in value}


def etag(item: Item) -> str:
    """The item's version (RFC 9110, 8.8.3): it changes with each fence, and only so."""
    version = ",".join(
        f"{name}={offset}" for name, offset in sorted(fences(item).items())
    )
    return f'"{hashlib.sha256(version.encode()).hexdigest()[:32]}"'


def fences(item: Item) -> dict[str, int]:
    """Fence attribute name to offset."""
    return {
        name: int(value["N"])
        for name, value in item.items()
        if name.startswith(FENCE_PREFIX)
    }


def fence_places(item: Item) -> Iterator[Receipt | None]:
    """Where each of the item's fences stands; None for one that names no place."""
    for name, value in item.items():
        if name.startswith(FENCE_PREFIX):
            topic_id, _, partition = name.removeprefix(FENCE_PREFIX).rpartition(":")
            try:
                yield Receipt(Source(topic_id, int(partition)), int(value["N"]))
            except (KeyError, ValueError):
                yield None


def incarnation(table: TableDescriptionTypeDef) -> str:
    """Names this incarnation of the table: one made anew under its name has another."""
    created = int(table["CreationDateTime"].timestamp())
    return table.get("TableId") or f"created-{created}"


def table_definition(table: str) -> CreateTableInputTypeDef:
    """The table: one string key, pay per request, nothing else."""
    return {
        "TableName": table,
        "KeySchema": [{"AttributeName": KEY, "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": KEY, "AttributeType": "S"}],
        "BillingMode": "PAY_PER_REQUEST",
    }
