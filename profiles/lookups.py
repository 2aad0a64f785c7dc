"""The lookups: what the table holds now, for the API and the pages. Never writes.

Out: one item by PatientId, or a page of items in the table's order. A page costs one
page of reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings

from profiles import connections, items

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import ScanInputTypeDef


class StoreUnavailable(Exception):
    """The table can't be read now: try again later."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some items, and the PatientId to continue after (None: the last page)."""

    items: list[items.Item]
    next_after: str | None


class Profiles:
    """The table as people and clients read it."""

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        self._client = client
        self._table = table

    def get(self, patient_id: str) -> items.Item | None:
        """One item, read consistently; None where there is none."""
        if len(patient_id.encode()) > items.MAX_KEY_BYTES:
            return None
        with _reading(self._table):
            answer = self._client.get_item(
                TableName=self._table,
                Key={items.KEY: {"S": patient_id}},
                ConsistentRead=True,
            )
        return answer.get("Item")

    def page(self, limit: int, after: str | None = None) -> Page:
        """At most `limit` items that come after a PatientId in the table's order."""
        scan: ScanInputTypeDef = {"TableName": self._table, "Limit": limit}
        if after is not None:
            scan["ExclusiveStartKey"] = {items.KEY: {"S": after}}
        with _reading(self._table):
            answer = self._client.scan(**scan)
        last = answer.get("LastEvaluatedKey")
        return Page(list(answer["Items"]), last[items.KEY]["S"] if last else None)

    def all(self) -> Iterator[items.Item]:
        """Every item of the table, each page read consistently."""
        scan = self._client.get_paginator("scan")
        with _reading(self._table):
            for page in scan.paginate(TableName=self._table, ConsistentRead=True):
                yield from page["Items"]


@cache
def profiles() -> Profiles:
    """This process's reader of the configured table."""
    return Profiles(connections.dynamodb(), settings.DYNAMODB_TABLE)


@contextmanager
def _reading(table: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        raise StoreUnavailable(f"table {table} can't be read ({code})") from None
    except BotoCoreError as error:
        kind = type(error).__name__
        raise StoreUnavailable(f"DynamoDB does not answer ({kind})") from None
