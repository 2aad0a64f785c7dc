"""The timeline: one patient's retained records, newest first, and what became of each.

In: the log, and how far the group and the item are; read in this order, so that no
concurrent write looks like a loss: the committed offset, the item, the log. Out:
entries. Reads the one partition of the key, backwards, within a budget: a record of the
patient in another one is a dead letter. Never writes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from profiles.core import items, serializers
from profiles.core.items import Item
from profiles.core.records import InvalidRecord, Record, key_of, partition_of
from profiles.core.updates import Receipt
from profiles.kafka.reader import LogReader

FIRST_STRETCH = 500
GROWTH = 4
"""Each stretch is so many times as long as the one before: each costs a fetch."""


class Fate(StrEnum):
    """What became of a record."""

    APPLIED = "applied"
    WAITING = "waiting"
    DEAD_LETTERED = "dead-lettered"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the patient: what it changes, or why it is no update."""

    receipt: Receipt
    timestamp_ms: int
    fate: Fate
    changes: Mapping[str, str | None] = field(repr=False, default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """The entries of the offsets `read` of one partition, which retains `retained`.

    `strays` are the other partitions that the item includes records of.
    """

    partition: int
    entries: list[Entry]
    read: range
    retained: range
    strays: Sequence[int] = ()

    @property
    def cut(self) -> bool:
        """Whether older records were not read."""
        return self.read.start > self.retained.start


@dataclass(slots=True)
class Budget:
    """What one reading may cost: bytes of values, seconds, and entries found."""

    bytes: int = 16 * 1024 * 1024
    seconds: float = 1.0
    entries: int = 100
    spent_bytes: int = 0
    spent_records: int = 0
    started: float = field(default_factory=lambda: time.monotonic())

    def spend(self, records: int, size: int) -> None:
        """Count the offsets of a stretch, and the bytes of its values."""
        self.spent_records += records
        self.spent_bytes += size

    def next_stretch(self, last: int) -> int:
        """How many offsets to read next: GROWTH times as many, if that is affordable.

        What a record costs is known from those read so far.
        """
        spent_s = time.monotonic() - self.started
        affordable = min(
            self.spent_records * (self.bytes / max(self.spent_bytes, 1) - 1),
            self.spent_records * (self.seconds / max(spent_s, 1e-6) - 1),
        )
        return max(0, min(GROWTH * last, int(affordable)))


def read(
    log: LogReader,
    patient_id: str,
    item: Item | None,
    committed: int,
    before: int | None = None,
    budget: Budget | None = None,
) -> Timeline:
    """The newest entries of a patient, or those before an offset.

    Raises LogMoved or KafkaUnavailable.
    """
    partitions = log.topic.partitions
    partition = partition_of(patient_id, partitions)
    retained = log.spans([partition])[partition]
    stop = retained.stop if before is None else min(max(before, 0), retained.stop)
    wanted = range(retained.start, stop)
    found, start = _newest(log, patient_id, wanted, budget or Budget())
    entries = [_entry(record, item, committed, partitions) for record in found]
    strays = sorted(_included(item, log.topic.id) - {partition})
    return Timeline(partition, entries, range(start, stop), retained, strays)


def _newest(
    log: LogReader, patient_id: str, span: range, budget: Budget
) -> tuple[list[Record], int]:
    """The patient's newest records of these offsets, newest first.

    Also returns the offset back to which all were read.
    """
    key = key_of(patient_id)
    partition = partition_of(patient_id, log.topic.partitions)
    found: list[Record] = []
    start, stretch = span.stop, FIRST_STRETCH
    while start > span.start and stretch and len(found) < budget.entries:
        part = range(max(span.start, start - stretch), start)
        records, size = log.search(key, partition, part)
        found += reversed(records)
        budget.spend(len(part), size)
        start, stretch = part.start, budget.next_stretch(stretch)
    if len(found) > budget.entries:
        found = found[: budget.entries]
        start = found[-1].offset
    return found, start


def _included(item: Item | None, topic_id: str) -> set[int]:
    """The partitions of the topic that the item includes records of."""
    receipts = items.fence_receipts(item or {})
    sources = {receipt.source for receipt in receipts if receipt is not None}
    return {source.partition for source in sources if source.topic_id == topic_id}


def _entry(record: Record, item: Item | None, committed: int, partitions: int) -> Entry:
    receipt = Receipt(record.source, record.offset)
    passed = record.offset < committed
    try:
        update = serializers.decode(record, partitions)
    except InvalidRecord as error:
        fate = Fate.DEAD_LETTERED if passed else Fate.WAITING
        return Entry(receipt, record.timestamp_ms, fate, reason=str(error))
    fate = Fate.MISSING if passed else Fate.WAITING
    if item is not None and items.includes(item, receipt):
        fate = Fate.APPLIED
    return Entry(receipt, record.timestamp_ms, fate, update.fields)
