"""The item: a patient's row in the DynamoDB table.

In: merged updates. Out: the conditional write that applies one, and the profile that
an item shows. Holds the fence's name and the table's definition. Plain Python: it
calls nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from profiles.updates import MergedUpdate, Source

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import (
        AttributeValueTypeDef,
        CreateTableInputTypeDef,
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

    It is refused (ConditionalCheckFailedException) where the item already includes
    this offset: a redelivery, a replay, or the late write of a former owner.
    """
    written: dict[str, str] = {
        name: value for name, value in update.fields.items() if value is not None
    }
    written[UPDATED_AT] = iso_timestamp(update.timestamp_ms)
    removed = [name for name, value in update.fields.items() if value is None]
    names = {f"#{i}": name for i, name in enumerate([*written, *removed])}
    sets = [f"#{i} = :{i}" for i in range(len(written))]
    removals = [f"#{i}" for i in range(len(written), len(names))]
    values: dict[str, AttributeValueTypeDef] = {
        f":{i}": {"S": value} for i, value in enumerate(written.values())
    }
    return {
        "TableName": table,
        "Key": {KEY: {"S": update.patient_id}},
        "UpdateExpression": f"SET #f = :f, {', '.join(sets)}"
        + (f" REMOVE {', '.join(removals)}" if removals else ""),
        "ConditionExpression": "attribute_not_exists(#f) OR #f < :f",
        "ExpressionAttributeNames": {**names, "#f": fence_name(update.source)},
        "ExpressionAttributeValues": {**values, ":f": {"N": str(update.offset)}},
    }


def iso_timestamp(timestamp_ms: int) -> str:
    """Milliseconds since the epoch as ISO 8601 with milliseconds and UTC offset."""
    moment = _EPOCH + timedelta(milliseconds=timestamp_ms)
    return moment.isoformat(timespec="milliseconds")


def profile(item: Item) -> dict[str, str]:
    """The profile that an item shows: the posted fields and UpdatedAt, no fences."""
    return {name: value["S"] for name, value in item.items() if "S" in value}


def fences(item: Item) -> dict[str, int]:
    """Fence attribute name to offset."""
    return {
        name: int(value["N"])
        for name, value in item.items()
        if name.startswith(FENCE_PREFIX)
    }


def table_definition(table: str) -> CreateTableInputTypeDef:
    """The table: one string key, pay per request, nothing else."""
    return {
        "TableName": table,
        "KeySchema": [{"AttributeName": KEY, "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": KEY, "AttributeType": "S"}],
        "BillingMode": "PAY_PER_REQUEST",
    }
