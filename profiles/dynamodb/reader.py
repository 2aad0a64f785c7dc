"""The reader: what the table holds now, for the API and the pages. Never writes.

Out: one item by PatientId, or a page of items in the table's order. A page costs one
page of reads, a search a bounded number of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings

from profiles.core import items
from profiles.core.updates import Receipt
from profiles.dynamodb import client
from profiles.dynamodb.client import StoreRefused, StoreUnavailable, trouble
from profiles.runtime.gates import Full, Gate

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import ScanInputTypeDef


SCANNED = 250
MOST_SCANNED = 1000
"""The items that a search reads at a time, and at most."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some items, and the PatientId to continue after (None: the last page)."""

    items: list[items.Item] = field(repr=False)
    next_after: str | None
    scanned: int


class TableReader:
    """The table as people and clients read it."""

    def __init__(
        self, client: DynamoDBClient, table: str, readers: int = 4, waiters: int = 2
    ) -> None:
        self._client = client
        self._table = table
        self._gate = Gate(readers)
        self._waiters = BoundedSemaphore(waiters)

    def get(self, patient_id: str) -> items.Item | None:
        """One item, read consistently; None if there is none."""
        if len(patient_id.encode()) > items.MAX_KEY_BYTES:
            return None
        with self._reading():
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
        with self._reading():
            answer = self._client.scan(**scan)
        found: list[items.Item] = [*answer["Items"]]
        last = answer.get("LastEvaluatedKey")
        return Page(found, last[items.KEY]["S"] if last else None, len(found))

    def search(
        self,
        matches: Callable[[items.Item], bool],
        limit: int,
        after: str | None = None,
        most: int = MOST_SCANNED,
    ) -> Page:
        """At most `limit` items that match, of at most `most` that come after."""
        found, scanned = Page([], after, 0), 0
        while scanned < most and len(found.items) < limit:
            page = self.page(min(most - scanned, SCANNED), found.next_after)
            found = _filled(found.items, page, matches, limit)
            scanned += found.scanned
            if found.next_after is None:
                break
        return Page(found.items, found.next_after, scanned)

    def identity(self) -> str:
        """The id of this incarnation of the table, as in the marks of offsets."""
        with self._reading():
            answer = self._client.describe_table(TableName=self._table)
        return items.table_id(answer["Table"])

    def await_receipt(
        self, patient_id: str, receipt: Receipt, seconds: float
    ) -> items.Item | None:
        """The item once it includes the update of this receipt; None: not in time.

        Reads consistently, at growing intervals; once if too many callers wait already.
        Raises StoreUnavailable.
        """
        deadline = time.monotonic() + seconds
        waits = self._waiters.acquire(blocking=False)
        try:
            for pause in _pauses():
                item = self.get(patient_id)
                if item is not None and items.includes(item, receipt):
                    return item
                if not waits or time.monotonic() + pause > deadline:
                    return None
                time.sleep(pause)
        finally:
            if waits:
                self._waiters.release()
        return None

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            with self._gate.passage() as moved, _readable(self._table):
                yield
                moved()
        except Full:
            raise StoreUnavailable("too many reads wait for DynamoDB") from None

    def all(self) -> Iterator[items.Item]:
        """Every item of the table, each page read consistently."""
        scan = self._client.get_paginator("scan")
        with _readable(self._table):
            for page in scan.paginate(TableName=self._table, ConsistentRead=True):
                yield from page["Items"]


@cache
def profiles() -> TableReader:
    """This process's reader of the configured table. Raises StoreUnavailable."""
    try:
        dynamodb = client.connect()
    except StoreRefused as refused:
        raise StoreUnavailable(str(refused)) from None
    return TableReader(
        dynamodb,
        settings.DYNAMODB_TABLE,
        readers=max(1, settings.WEB_THREADS // 4),
        waiters=max(1, settings.WEB_THREADS // 8),
    )


def _filled(
    found: list[items.Item],
    page: Page,
    matches: Callable[[items.Item], bool],
    limit: int,
) -> Page:
    """The items that were found, and those of a page that match, up to the limit."""
    found = [*found]
    for scanned, item in enumerate(page.items, 1):
        found += [item] if matches(item) else []
        if len(found) == limit and scanned < len(page.items):
            return Page(found, item[items.KEY]["S"], scanned)
    return Page(found, page.next_after, page.scanned)


def _pauses() -> Iterator[float]:
    """Seconds between two reads: short at first, because most updates are applied soon."""
    pause = 0.05
    while True:
        yield pause
        pause = min(pause * 1.5, 1.0)


@contextmanager
def _readable(table: str) -> Iterator[None]:
    """Raises StoreUnavailable for any error: a reader can only try later."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise StoreUnavailable(_why(table, error)) from None


def _why(table: str, error: BotoCoreError | ClientError) -> str:
    try:
        return trouble(table, error)
    except StoreRefused as refused:
        return str(refused)
