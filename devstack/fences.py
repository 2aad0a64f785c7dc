"""Removes fences of deleted topics from the embedded table.

The embedded table outlives a restart, the embedded topic does not: each start would
add a fence per patient. One old fence stays, so that the audit knows that the item's
history began before this topic. For the embedded table only: on a real one, a fence of
another topic still refuses that topic's late writes.
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
    """Keep this topic's fences and one other per item; returns how many items changed."""
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
    """The fences of other topics, less the first by name: that one stays."""
    return sorted(
        name
        for name in attributes
        if name.startswith(FENCE_PREFIX) and not name.startswith(current)
    )[1:]
