"""The item: a patient's row in the DynamoDB table.

In: merged updates, and items as DynamoDB returns them. Out: the conditional writes that
apply an update, and an item's profile, version and fences. Defines the table. Makes no
calls.

A write is conditional on the item's fence, and on its mark: the incarnation of topic
and table that the item was last written for (docs/decisions/0004). Another program may
have damaged an item: nothing here that reads one raises.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
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
"""Attributes whose name begins with this are not fields."""

UNREADABLE = "unreadable"
"""Shown instead of a field that another program has replaced by something else than text."""

MARK = "_incarnation"
FENCE_PREFIX = "_fence:"
_EPOCH = datetime(1970, 1, 1)
"""In UTC: `iso_timestamp` appends the offset."""

_MARKED, _UNMARKED = f'"{MARK}"=?', f'"{MARK}" IS MISSING'
_DIGITS = re.compile(r"\d+", re.ASCII)

Item = Mapping[str, "AttributeValueTypeDef"]


@lru_cache(1024)
def fence_name(source: Source) -> str:
    """The attribute with the last applied offset of one source.

    It is a top-level attribute: a nested SET fails if the map is missing.
    """
    return f"{FENCE_PREFIX}{source.topic_id}:{source.partition}"


def upsert(
    table: str, update: MergedUpdate, ours: Incarnation
) -> UpdateItemInputTypeDef:
    """The one write that merges an update and moves the fence, or does nothing.

    DynamoDB refuses it (ConditionalCheckFailedException, with the item) if the item
    already includes this offset (after a redelivery, a replay, or the late write of a
    former owner), or if its mark is not ours.
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
    """`upsert` as PartiQL, for an item with our mark; one of up to 25 in a call.

    It is refused (ConditionalCheckFailed, with the item) as `upsert` is, or because
    there is no item.
    """
    written = _fenced(update)
    conditions = [_MARKED, _below_fence(update.source)]
    return _update(table, update, written, conditions, _mark(ours), _fence(update))


def adopt_statement(
    table: str, update: MergedUpdate, ours: Incarnation, held: Incarnation | None
) -> BatchStatementRequestTypeDef:
    """`upsert` as PartiQL, for an item with the mark of a former incarnation, or without.

    If the mark names another table, the fence is not compared but set to this offset: a
    late write of that table may have made the item, and its fence is not valid here.
    Everything after this offset in the log is still to be applied.
    """
    written = {**_fenced(update), MARK: _mark(ours)}
    conditions, values = [_UNMARKED], []
    if held is not None:
        conditions, values = [_MARKED], [_mark(held)]
    if trusts_fence(held, ours):
        conditions.append(_below_fence(update.source))
        values.append(_fence(update))
    return _update(table, update, written, conditions, *values)


def insert_statement(
    table: str, update: MergedUpdate, ours: Incarnation
) -> BatchStatementRequestTypeDef:
    """`upsert` as PartiQL, for a new item; DuplicateItem if there is one."""
    written = {
        KEY: {"S": update.patient_id},
        **_written(update),
        MARK: _mark(ours),
        fence_name(update.source): _fence(update),
    }
    return {
        "Statement": _insert_text(table, tuple(written)),
        "Parameters": list(written.values()),
    }


def held_by(item: Item) -> Incarnation | None:
    """The incarnation in the item's mark; None if there is no mark that is text."""
    mark = item.get(MARK, {}).get("S")
    return None if mark is None else Incarnation.parse(mark)


def trusts_fence(held: Incarnation | None, ours: Incarnation) -> bool:
    """Whether the fences of an item with this mark are valid in our table too."""
    return held is None or held.table_id == ours.table_id


def includes(item: Item, update: MergedUpdate | Receipt) -> bool:
    """Whether the item includes this update, by its fence."""
    fence = item.get(fence_name(update.source))
    return fence is not None and _is_offset(fence) and int(fence["N"]) >= update.offset


def has_sound_fence(item: Item, source: Source) -> bool:
    """Whether the item's fence of this source is missing or an offset."""
    fence = item.get(fence_name(source))
    return fence is None or _is_offset(fence)


def _is_offset(fence: AttributeValueTypeDef) -> bool:
    return _DIGITS.fullmatch(fence.get("N", "")) is not None


def _update(
    table: str,
    update: MergedUpdate,
    written: Mapping[str, AttributeValueTypeDef],
    conditions: list[str],
    *values: AttributeValueTypeDef,
) -> BatchStatementRequestTypeDef:
    removed = tuple(_removed(update))
    return {
        "Statement": _update_text(table, tuple(written), removed, tuple(conditions)),
        "Parameters": [*written.values(), {"S": update.patient_id}, *values],
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


@lru_cache(1024)
def _update_text(
    table: str,
    written: tuple[str, ...],
    removed: tuple[str, ...],
    conditions: tuple[str, ...],
) -> str:
    sets = " ".join(f'SET "{name}"=?' for name in written)
    removals = " ".join(f'REMOVE "{name}"' for name in removed)
    where = " AND ".join([f'"{KEY}"=?', *conditions])
    return f'UPDATE "{table}" {sets} {removals} WHERE {where}'


@lru_cache(1024)
def _insert_text(table: str, written: tuple[str, ...]) -> str:
    members = ", ".join(f"'{name}': ?" for name in written)
    return f'INSERT INTO "{table}" VALUE {{{members}}}'


@lru_cache(1024)
def _below_fence(source: Source) -> str:
    """True also if the fence is missing, on every engine; the offset comes last.

    `NOT f >= ?` would be true for a fence that is not a number, and overwrite it.
    """
    fence = fence_name(source)
    return f'NOT ("{fence}" IS NOT MISSING AND NOT "{fence}" < ?)'


def _mark(by: Incarnation) -> AttributeValueTypeDef:
    return {"S": str(by)}


def _written(update: MergedUpdate) -> dict[str, AttributeValueTypeDef]:
    written: dict[str, AttributeValueTypeDef] = {
        name: {"S": value} for name, value in update.fields.items() if value is not None
    }
    written[UPDATED_AT] = {"S": iso_timestamp(update.timestamp_ms)}
    return written


def _fenced(update: MergedUpdate) -> dict[str, AttributeValueTypeDef]:
    return {**_written(update), fence_name(update.source): _fence(update)}


def _removed(update: MergedUpdate) -> list[str]:
    return [name for name, value in update.fields.items() if value is None]


def _fence(update: MergedUpdate) -> AttributeValueTypeDef:
    return {"N": str(update.offset)}


def iso_timestamp(timestamp_ms: int) -> str:
    """Milliseconds since the epoch as ISO 8601 with milliseconds and UTC offset."""
    second, millisecond = divmod(timestamp_ms, 1000)
    return f"{_iso_second(second)}.{millisecond:03}+00:00"


@lru_cache(1024)
def _iso_second(timestamp: int) -> str:
    return (_EPOCH + timedelta(seconds=timestamp)).isoformat()


def profile(item: Item) -> dict[str, str]:
    """The profile of an item: the posted fields and UpdatedAt."""
    return {
        name: value.get("S", UNREADABLE)
        for name, value in item.items()
        if not name.startswith(INTERNAL)
    }


def etag(item: Item) -> str:
    """The item's version (RFC 9110, 8.8.3): it changes with every write.

    It depends on the mark too: fences repeat while a restored table is filled again.
    """
    version = ",".join(
        f"{name}={value.get('N') or value.get('S')}"
        for name, value in sorted(item.items())
        if name.startswith(INTERNAL)
    )
    return f'"{hashlib.sha256(version.encode()).hexdigest()[:32]}"'


def fence_receipts(item: Item) -> Iterator[Receipt | None]:
    """The receipt in each of the item's fences; None for a damaged fence."""
    for name, value in item.items():
        if name.startswith(FENCE_PREFIX):
            topic_id, _, partition = name.removeprefix(FENCE_PREFIX).rpartition(":")
            sound = _is_offset(value) and _DIGITS.fullmatch(partition)
            yield (
                Receipt(Source(topic_id, int(partition)), int(value["N"]))
                if sound
                else None
            )


def table_id(table: TableDescriptionTypeDef) -> str:
    """The table's id: a table that is recreated under its name has another one."""
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
