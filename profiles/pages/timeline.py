"""The timeline: one patient's retained records, newest first, and what became of each.

In: the log, and how far the group and the item are; read in this order, so that no
concurrent write looks like a loss: the committed offset, the item, the log. Out:
entries. Reads the one partition of the key, backwards, within a budget: a record of the
patient in another one is a dead letter. Never writes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from profiles.core import items, serializers
from profiles.core.items import Item
from profiles.core.records import InvalidRecord, Record, key_of, partition_of
from profiles.core.updates import Receipt
from profiles.kafka.reader import LogReader

FIRST_WINDOW = 500


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
    """The entries of a stretch of one partition; `read` may be shorter than asked.

    `strays` are the other partitions that the item includes records of.
    """

    partition: int
    entries: list[Entry]
    read: range
    retained: range
    strays: Sequence[int] = ()

    @property
    def cut(self) -> bool:
        """Whether older records were not looked at."""
        return self.read.start > self.retained.start


@dataclass(slots=True)
class Budget:
    """What one reading may cost; it ends with the stretch that exceeds it."""

    records: int = 20_000
    bytes: int = 16 * 1024 * 1024
    seconds: float = 2.0
    entries: int = 100
    spent_records: int = 0
    spent_bytes: int = 0
    started: float = field(default_factory=time.monotonic)

    def count(self, records: Iterator[Record]) -> Iterator[Record]:
        """Pass the records on, and book them."""
        for record in records:
            self.spent_records += 1
            self.spent_bytes += len(record.value or b"")
            yield record

    def next_window(self, last: int) -> int:
        """How many offsets to look at next: twice as many, if they are affordable."""
        left = min(self.records - self.spent_records, self._affordable())
        late = time.monotonic() - self.started > self.seconds
        return 0 if late else max(0, min(2 * last, left))

    def _affordable(self) -> int:
        average = self.spent_bytes / max(1, self.spent_records)
        return int((self.bytes - self.spent_bytes) / max(1.0, average))


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
    budget = budget or Budget()
    partition = partition_of(patient_id, log.topic.partitions)
    retained = log.spans([partition])[partition]
    end = retained.stop if before is None else min(max(before, 0), retained.stop)
    found: list[Record] = []
    start, window = end, FIRST_WINDOW
    while start > retained.start and window and len(found) < budget.entries:
        stretch = range(max(retained.start, start - window), start)
        records = budget.count(log.records({partition: stretch}))
        key = key_of(patient_id)
        found += reversed([record for record in records if record.key == key])
        start, window = stretch.start, budget.next_window(window)
    if len(found) > budget.entries:
        found = found[: budget.entries]
        start = found[-1].offset
    partitions = log.topic.partitions
    entries = [_entry(record, item, committed, partitions) for record in found]
    strays = sorted(_included(item, log.topic.id) - {partition})
    return Timeline(partition, entries, range(start, end), retained, strays)


def _included(item: Item | None, topic_id: str) -> set[int]:
    """The partitions of the topic that the item includes records of."""
    places = items.fence_receipts(item or {})
    sources = {place.source for place in places if place is not None}
    return {source.partition for source in sources if source.topic_id == topic_id}


def _entry(record: Record, item: Item | None, committed: int, partitions: int) -> Entry:
    place = Receipt(record.source, record.offset)
    passed = record.offset < committed
    try:
        update = serializers.decode(record, partitions)
    except InvalidRecord as error:
        fate = Fate.DEAD_LETTERED if passed else Fate.WAITING
        return Entry(place, record.timestamp_ms, fate, reason=str(error))
    fate = Fate.MISSING if passed else Fate.WAITING
    if item is not None and items.includes(item, place):
        fate = Fate.APPLIED
    return Entry(place, record.timestamp_ms, fate, update.fields)
