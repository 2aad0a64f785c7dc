"""Fences of topics that are gone, cleared from the embedded table.

The embedded Kafka keeps nothing over a restart and the embedded table does, so each
start would add a fence per patient. One of them stays: it tells the audit that the
item's history began before the present topic. Only for a table that has no other
source: on a real one a fence of another topic still holds back that topic's late
writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from profiles.core.items import FENCE_PREFIX, KEY

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

MAX_TRANSACTION = 100


def clear_old_fences(client: DynamoDBClient, table: str, topic_id: str) -> int:
    """Remove all fences but this topic id's and one; returns how many items had more."""
    removals = _removals(client, table, f"{FENCE_PREFIX}{topic_id}:")
    cleared = 0
    while chunk := list(islice(removals, MAX_TRANSACTION)):
        client.transact_write_items(TransactItems=chunk)
        cleared += len(chunk)
    return cleared


def _removals(
    client: DynamoDBClient, table: str, current: str
) -> Iterator[TransactWriteItemTypeDef]:
    for page in client.get_paginator("scan").paginate(TableName=table):
        for item in page["Items"]:
            if old := _old_fences(item, current):
                names = {f"#{i}": name for i, name in enumerate(old)}
                yield {
                    "Update": {
                        "TableName": table,
                        "Key": {KEY: item[KEY]},
                        "UpdateExpression": f"REMOVE {', '.join(names)}",
                        "ExpressionAttributeNames": names,
                    }
                }


def _old_fences(attributes: Iterable[str], current: str) -> list[str]:
    """All but one, always the same, of the fences that are of another topic."""
    return sorted(
        name
        for name in attributes
        if name.startswith(FENCE_PREFIX) and not name.startswith(current)
    )[1:]
