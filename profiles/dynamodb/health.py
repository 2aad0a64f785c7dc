"""The table's health: whether DynamoDB answers, and how fast.

Out: the table's id and the time of its answer, read in the background of this process
while somebody looks. Never writes.
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
    """The table as it answered: its incarnation, and in what time."""

    identity: str
    answer_ms: float


def read_table() -> TableFigures:
    """Ask the table for a sign of life; raises StoreUnavailable."""
    started = time.monotonic()
    identity = profiles().identity()
    return TableFigures(identity, (time.monotonic() - started) * 1000)


@cache
def table() -> BackgroundReader[TableFigures]:
    """This process's view of the table."""
    return BackgroundReader(
        "DynamoDB", lambda: nullcontext(read_table), (StoreUnavailable,)
    )
