"""The lookups: one item, or a page of items in the table's order."""

from __future__ import annotations

from typing import Any

import pytest

from profiles.dynamodb import client
from profiles.dynamodb.client import StoreUnavailable
from profiles.dynamodb.reader import TableReader
from profiles.dynamodb.writer import TableWriter
from tests.fakes import OURS, refusal, update_at


@pytest.fixture
def table(dynamodb):
    """Seven profiles, and their reader."""
    table = TableWriter(dynamodb, "patient-profile")
    for number in range(7):  # moto takes no batches
        table.apply([update_at(number, f"patient {number}")], OURS)
    return TableReader(dynamodb, "patient-profile")


def ids(page):
    return [item["PatientId"]["S"] for item in page.items]


def all_pages(table, limit):
    pages = [table.page(limit)]
    while pages[-1].next_after is not None:
        pages.append(table.page(limit, pages[-1].next_after))
    return pages


@pytest.mark.parametrize("limit", [1, 3, 7, 50])
def test_the_pages_together_hold_every_item_once(table, limit):
    found = [ids(page) for page in all_pages(table, limit)]
    assert sorted(sum(found, [])) == [f"patient {i}" for i in range(7)]
    assert max(map(len, found)) <= limit


def test_a_page_goes_on_after_the_id_that_the_last_one_named(table):
    first = table.page(3)
    assert first.next_after == ids(first)[-1]
    assert not {*ids(first)} & {*ids(table.page(3, first.next_after))}


def test_an_empty_table_is_one_empty_page(dynamodb):
    page = TableReader(dynamodb, "patient-profile").page(5)
    assert (page.items, page.next_after) == ([], None)


def test_one_item_is_found_by_its_exact_id(table):
    item = table.get("patient 3")
    assert item["_fence:topic-1:0"] == {"N": "3"}
    assert table.get("Patient 3") is None
    assert table.get("patient") is None


def test_an_id_that_no_key_can_be_is_not_asked_for():
    assert TableReader(Refusing(), "t").get("é" * 1025) is None  # type: ignore[arg-type]


class Recording:
    """A client that remembers its calls, and finds nothing."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def get_item(self, **call: Any) -> dict[str, Any]:
        self.calls.append(call)
        return {}

    def get_paginator(self, name: str) -> Recording:
        return self

    def paginate(self, **call: Any) -> list[dict[str, Any]]:
        self.calls.append(call)
        return [{"Items": []}]


@pytest.mark.parametrize(
    "read",
    [lambda table: table.get("1"), lambda table: [*table.all()]],
    ids=["get", "all"],
)
def test_an_update_that_was_acknowledged_is_read(read):
    """A receipt and the audit rely on it: an old copy would look like a loss."""
    recording: Any = Recording()
    read(TableReader(recording, "t"))
    assert [call["ConsistentRead"] for call in recording.calls] == [True]


class Refusing:
    """A client whose every call is refused."""

    def get_item(self, **call):
        raise refusal("ThrottlingException")

    scan = get_item


@pytest.mark.parametrize(
    "read",
    [lambda table: table.get("1"), lambda table: table.page(5)],
    ids=["get", "page"],
)
def test_a_table_that_can_not_be_read_says_why_and_quotes_nothing(read):
    with pytest.raises(StoreUnavailable, match="Throttling") as failure:
        read(TableReader(Refusing(), "t"))  # type: ignore[arg-type]
    assert "Secret" not in str(failure.value)


def test_a_missing_table_is_told(dynamodb):
    with pytest.raises(StoreUnavailable, match="table other does not exist: create it"):
        TableReader(dynamodb, "other").page(5)


def test_a_dynamodb_that_is_away_is_told(settings):
    settings.DYNAMODB_ENDPOINT_URL = "http://127.0.0.1:1"
    with pytest.raises(StoreUnavailable, match="EndpointConnectionError"):
        TableReader(client.connect(), "t").get("1")
