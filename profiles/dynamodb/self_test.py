"""The engine's self-test: each condition of a write holds and fails, on a scratch item.

For engines that are not AWS: one that evaluates a condition differently would lose
updates silently.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from profiles.core import items
from profiles.core.updates import Incarnation, MergedUpdate, Source
from profiles.dynamodb.attempt import REFUSALS
from profiles.dynamodb.client import StoreRefused, code_of

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import BatchStatementRequestTypeDef


def prove(client: DynamoDBClient, table: str) -> None:
    """Write a scratch item and remove it. Raises StoreRefused, or botocore's errors."""
    scratch = f"self-test {uuid.uuid4()}"
    try:
        answers = [
            _execute(client, build(table, _scratch_update(scratch, offset)))
            for build, offset, _ in _PROOF
        ]
    finally:
        client.delete_item(TableName=table, Key={items.KEY: {"S": scratch}})
    if answers != [answer for _, _, answer in _PROOF]:
        raise StoreRefused(
            f"the engine of table {table} evaluates the condition differently "
            f"({', '.join(answers)}): it can't keep the order of updates"
        )


def _execute(client: DynamoDBClient, call: Any) -> str:
    """A statement, or an `update_item`: written, or the code of its refusal."""
    if "Statement" in call:
        answer = client.batch_execute_statement(Statements=[call])
        return str(answer["Responses"][0].get("Error", {}).get("Code", _WRITTEN))
    try:
        client.update_item(**call)
    except ClientError as error:
        if code_of(error) in REFUSALS:
            return code_of(error)
        raise
    return _WRITTEN


def _unmark(table: str, update: MergedUpdate) -> BatchStatementRequestTypeDef:
    """As an earlier release left an item."""
    where = f'WHERE "{items.KEY}"=?'
    statement = f'UPDATE "{table}" REMOVE "{items.MARK}" {where}'
    return {"Statement": statement, "Parameters": [{"S": update.patient_id}]}


def _damaged(table: str, update: MergedUpdate) -> BatchStatementRequestTypeDef:
    """As somebody else may leave an item."""
    fence = items.fence_name(update.source)
    text = f'UPDATE "{table}" SET "{fence}"=? WHERE "{items.KEY}"=?'  # noqa: S608 names
    return {"Statement": text, "Parameters": [{"S": ""}, {"S": update.patient_id}]}


_OURS = Incarnation("self-test", "table")
_NEXT_TOPIC = Incarnation("next", "table")
_NEXT_TABLE = Incarnation("next", "next")
_WRITTEN, _REFUSED, _THERE = "written", "ConditionalCheckFailed", "DuplicateItem"
_update, _adopt = items.update_statement, items.adopt_statement

_PROOF: list[tuple[Callable[[str, MergedUpdate], object], int, str]] = [
    (partial(_update, ours=_OURS), 4, _REFUSED),  # no item
    (partial(items.upsert, ours=_OURS), 4, _WRITTEN),
    (partial(items.upsert, ours=_OURS), 4, _REFUSED),
    (partial(items.upsert, ours=_OURS), 5, _WRITTEN),
    (partial(items.insert_statement, ours=_OURS), 6, _THERE),
    (partial(_update, ours=_OURS), 5, _REFUSED),
    (partial(_update, ours=_OURS), 6, _WRITTEN),
    (partial(_update, ours=_OURS), 10, _WRITTEN),
    (partial(_update, ours=_OURS), 9, _REFUSED),
    (_unmark, 0, _WRITTEN),
    (partial(_update, ours=_OURS), 11, _REFUSED),
    (partial(items.upsert, ours=_OURS), 11, _REFUSED),
    (partial(_adopt, ours=_OURS, held=None), 10, _REFUSED),
    (partial(_adopt, ours=_OURS, held=None), 11, _WRITTEN),
    (partial(_adopt, ours=_OURS, held=None), 12, _REFUSED),
    (partial(_update, ours=_NEXT_TOPIC), 12, _REFUSED),
    (partial(items.upsert, ours=_NEXT_TOPIC), 12, _REFUSED),
    (partial(_adopt, ours=_NEXT_TOPIC, held=_OURS), 11, _REFUSED),
    (partial(_adopt, ours=_NEXT_TOPIC, held=_OURS), 12, _WRITTEN),
    (partial(_adopt, ours=_NEXT_TABLE, held=_OURS), 13, _REFUSED),
    (partial(_adopt, ours=_NEXT_TABLE, held=_NEXT_TOPIC), 3, _WRITTEN),
    (partial(_update, ours=_NEXT_TABLE), 4, _WRITTEN),
    (_damaged, 0, _WRITTEN),
    (partial(_update, ours=_NEXT_TABLE), 13, _REFUSED),
    (partial(items.upsert, ours=_NEXT_TABLE), 13, _REFUSED),
]
"""Writes of a scratch item, the offset of each, and the answer that it must get."""


def _scratch_update(patient_id: str, offset: int) -> MergedUpdate:
    return MergedUpdate(patient_id, {}, Source("self-test", 0), offset, 0)
