"""The table's health: whether DynamoDB answers, and how fast.

Out: the table's id and the time of its answer, read in the background while a page
shows them. Never writes.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache

from profiles.dynamodb.client import StoreUnavailable
from profiles.dynamodb.reader import profiles
from profiles.runtime.background import BackgroundReader


@dataclass(frozen=True, slots=True)
class TableFigures:
    """The incarnation of the table, and how long its answer took."""

    identity: str
    answer_ms: float


def read_table() -> TableFigures:
    """Describe the table once; raises StoreUnavailable."""
    started = time.monotonic()
    identity = profiles().identity()
    return TableFigures(identity, (time.monotonic() - started) * 1000)


@cache
def table() -> BackgroundReader[TableFigures]:
    """This process's view of the table."""
    return BackgroundReader(
        "DynamoDB", lambda: nullcontext(read_table), (StoreUnavailable,)
    )
