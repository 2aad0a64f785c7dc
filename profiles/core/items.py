"""The item: a patient's row in the DynamoDB table.

In: merged updates. Out: the conditional writes that apply one, and the profile that
an item shows. Holds the names of mark and fence, and the table's definition. Plain
Python: it calls nobody.

A write is conditional on the item's fence, and on its mark: the incarnation of topic
and table that the item was last written for (docs/decisions/0004).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from profiles.core.updates import Incarnation, MergedUpdate, Receipt, Source

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
INTERNAL = "_"
"""What the name of an attribute begins with that is no field."""

MARK = "_incarnation"
FENCE_PREFIX = "_fence:"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Item = Mapping[str, "AttributeValueTypeDef"]


def fence_name(source: Source) -> str:
    """The attribute that holds the last applied offset of one source.

    A top-level attribute: a nested SET fails where the map is missing, and one
    attribute keeps the condition to one comparison.
    """
    return f"{FENCE_PREFIX}{source.topic_id}:{source.partition}"


def upsert(
    table: str, update: MergedUpdate, ours: Incarnation
) -> UpdateItemInputTypeDef:
    """The one write that merges an update and moves the fence, or does nothing.

    It is refused (ConditionalCheckFailedException, with the item as it is) where the
    item already includes this offset (a redelivery, a replay, or the late write of a
    former owner), and where it is not marked as ours.
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
        "UpdateExpression": f"SET #m = :m, #f = :f, {', '.join(sets)}"
        + (f" REMOVE {', '.join(removals)}" if removals else ""),
        "ConditionExpression": f"attribute_not_exists({KEY}) OR "
        "#m = :m AND (attribute_not_exists(#f) OR #f < :f)",
        "ExpressionAttributeNames": {
            **names,
            "#m": MARK,
            "#f": fence_name(update.source),
        },
        "ExpressionAttributeValues": {
            **values,
            ":m": _mark(ours),
            ":f": _fence(update),
        },
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


def update_statement(
    table: str, update: MergedUpdate, ours: Incarnation
) -> BatchStatementRequestTypeDef:
    """`upsert` as PartiQL, for an item that is ours; one of up to 25 in a call.

    ConditionalCheckFailed comes with the item as it is: there is none, or it includes
    the update, or it is not marked as ours.
    """
    written = {**_written(update), fence_name(update.source): _fence(update)}
    condition = f'"{MARK}"=? AND {_below_fence(update)}'
    return _update(table, update, written, condition, _mark(ours), _fence(update))


def adopt_statement(
    table: str, update: MergedUpdate, ours: Incarnation, held: Incarnation | None
) -> BatchStatementRequestTypeDef:
    """`upsert` as PartiQL, for an item that a former incarnation has marked, or none.

    The fence of another table says nothing of this one, where a late write of that
    table may have made the item: it is set to this offset, and all that comes after
    that in the log is still to be applied.
    """
    written = {
        **_written(update),
        MARK: _mark(ours),
        fence_name(update.source): _fence(update),
    }
    conditions, values = [f'"{MARK}" IS MISSING'], []
    if held is not None:
        conditions, values = [f'"{MARK}"=?'], [_mark(held)]
    if trusts_fence(held, ours):
        conditions.append(_below_fence(update))
        values.append(_fence(update))
    return _update(table, update, written, " AND ".join(conditions), *values)


def insert_statement(
    table: str, update: MergedUpdate, ours: Incarnation
) -> BatchStatementRequestTypeDef:
    """`upsert` as PartiQL, for a new item; DuplicateItem means that there is one."""
    written = {
        KEY: {"S": update.patient_id},
        **_written(update),
        MARK: _mark(ours),
        fence_name(update.source): _fence(update),
    }
    members = ", ".join(f"'{name}': ?" for name in written)
    return {
        "Statement": f'INSERT INTO "{table}" VALUE {{{members}}}',
        "Parameters": list(written.values()),
    }


def held_by(item: Item) -> Incarnation | None:
    """The incarnation that has marked the item; None: an earlier release wrote it."""
    mark = item.get(MARK, {}).get("S")
    return None if mark is None else Incarnation.parse(mark)


def trusts_fence(held: Incarnation | None, ours: Incarnation) -> bool:
    """Whether the fence of an item so marked holds for our table too."""
    return held is None or held.table_id == ours.table_id


def includes(item: Item, place: MergedUpdate | Receipt) -> bool:
    """Whether the item's fence tells that it includes the update of this place."""
    fence = item.get(fence_name(place.source))
    return fence is not None and _is_offset(fence) and int(fence["N"]) >= place.offset


def has_sound_fence(item: Item, source: Source) -> bool:
    """Whether its fence of this source is missing, or one that a write of ours left."""
    fence = item.get(fence_name(source))
    return fence is None or _is_offset(fence)


def _is_offset(fence: AttributeValueTypeDef) -> bool:
    return re.fullmatch(r"\d+", fence.get("N", ""), re.ASCII) is not None


def _update(
    table: str,
    update: MergedUpdate,
    written: Mapping[str, AttributeValueTypeDef],
    condition: str,
    *values: AttributeValueTypeDef,
) -> BatchStatementRequestTypeDef:
    removed = tuple(_removed(update))
    return {
        "Statement": _update_text(table, tuple(written), removed, condition),
        "Parameters": [*written.values(), {"S": update.patient_id}, *values],
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


@lru_cache(1024)
def _update_text(
    table: str, written: tuple[str, ...], removed: tuple[str, ...], condition: str
) -> str:
    sets = " ".join(f'SET "{name}"=?' for name in written)
    removals = " ".join(f'REMOVE "{name}"' for name in removed)
    return f'UPDATE "{table}" {sets} {removals} WHERE "{KEY}"=? AND {condition}'


def _below_fence(update: MergedUpdate) -> str:
    """Holds where the fence is missing too, on every engine; its value comes last.

    `NOT f >= ?` would hold for a fence that is no number, and be written over it.
    """
    fence = fence_name(update.source)
    return f'NOT ("{fence}" IS NOT MISSING AND NOT "{fence}" < ?)'


def _mark(by: Incarnation) -> AttributeValueTypeDef:
    return {"S": str(by)}


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
    """The profile that an item shows: the posted fields and UpdatedAt."""
    return {
        name: value["S"]
        for name, value in item.items()
        if "S" in value and not name.startswith(INTERNAL)
    }


def etag(item: Item) -> str:
    """The item's version (RFC 9110, 8.8.3): it changes with each write, and only so.

    With the mark: while a restored table is filled again, fences come by once more.
    """
    version = ",".join(
        f"{name}={value.get('N') or value.get('S')}"
        for name, value in sorted(item.items())
        if name.startswith(INTERNAL)
    )
    return f'"{hashlib.sha256(version.encode()).hexdigest()[:32]}"'


def fences(item: Item) -> dict[str, int]:
    """Fence attribute name to offset."""
    return {
        name: int(value["N"])
        for name, value in item.items()
        if name.startswith(FENCE_PREFIX)
    }


def fence_receipts(item: Item) -> Iterator[Receipt | None]:
    """Where each of the item's fences stands; None for one that names no place."""
    for name, value in item.items():
        if name.startswith(FENCE_PREFIX):
            topic_id, _, partition = name.removeprefix(FENCE_PREFIX).rpartition(":")
            try:
                yield Receipt(Source(topic_id, int(partition)), int(value["N"]))
            except (KeyError, ValueError):
                yield None


def table_id(table: TableDescriptionTypeDef) -> str:
    """Names this very table: one that is made anew under its name has another."""
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
