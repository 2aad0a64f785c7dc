"""The audit: is every item the fold of its patient's records, up to the item's fence?

In: the readings of a running system. Out: a report with PatientIds, receipts and
counts, and no value. The readings are taken in this order, so that no concurrent write
looks like damage:

1. the committed offsets: records below them were in the table, or dead letters, before
2. the table: an item that is read later can only include more
3. the ends of the log: no fence that was read is past them
4. the dead letters and the log, up to those ends

Knows no Kafka and no DynamoDB: it is handed the readings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from zlib import crc32

from profiles.core import serializers
from profiles.core.items import KEY, UPDATED_AT, Item, iso_timestamp
from profiles.core.records import InvalidRecord, Misplaced, Record, key_of
from profiles.core.updates import Incarnation, Receipt
from profiles.operate.histories import DAMAGE, Finding, History, Shape, Spans


class Readings(Protocol):
    """The running system, as the audit reads it."""

    def committed(self) -> Mapping[int, int]: ...
    def items(self) -> Iterable[Item]: ...
    def spans(self) -> Spans: ...
    def dead_letters(self) -> Collection[Receipt]: ...
    def records(self, spans: Spans) -> Iterable[Record]: ...


@dataclass(frozen=True, slots=True)
class Share:
    """A share of the patients, by a hash of the key: always the same ones."""

    parts: int = 1
    of: int = 1

    def has(self, key: bytes) -> bool:
        return crc32(key) % self.of < self.parts


@dataclass(slots=True)
class Tally:
    """One finding's patients, its number of records, and receipts of invalid ones."""

    patients: list[str] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    records: int = 0


@dataclass(slots=True)
class Report:
    """What was read, and what was found."""

    items: int = 0
    records: int = 0
    tallies: dict[Finding, Tally] = field(
        default_factory=lambda: {finding: Tally() for finding in Finding}
    )

    @property
    def damaged(self) -> int:
        """How many patients or invalid records are damaged."""
        found = [self.tallies[finding] for finding in DAMAGE]
        return sum(len(tally.patients) + len(tally.receipts) for tally in found)


def audit(
    readings: Readings, incarnation: Incarnation, partitions: int, share: Share
) -> Report:
    """Take the readings in order, fold the records, and compare.

    A patient's partition is the key's hash modulo `partitions`.
    """
    shape = Shape(incarnation, partitions, serializers.FIELDS)
    ledger = _Ledger(shape, readings.committed())
    for item in readings.items():
        if share.has(key_of(item[KEY]["S"])):
            ledger.enter_item(item)
    spans = readings.spans()
    ledger.dead = readings.dead_letters()
    for record in readings.records(spans):
        if share.has(record.key or b""):
            ledger.enter_record(record)
    return ledger.close(spans)


class _Ledger:
    """The history of each patient by key, and the report so far."""

    def __init__(self, shape: Shape, committed: Mapping[int, int]) -> None:
        self.dead: Collection[Receipt] = ()
        self._shape = shape
        self._committed = committed
        self._histories: dict[bytes, History] = {}
        self._report = Report()

    def enter_item(self, item: Item) -> None:
        self._report.items += 1
        self._histories[key_of(item[KEY]["S"])] = History(self._shape, item)

    def enter_record(self, record: Record) -> None:
        self._report.records += 1
        receipt = Receipt(record.source, record.offset)
        try:
            update = serializers.decode(record, self._shape.partitions)
        except InvalidRecord as reason:
            self._enter_invalid(record, receipt, reason)
            return
        values = {**update.fields, UPDATED_AT: iso_timestamp(record.timestamp_ms)}
        self._enter_update(key_of(update.patient_id), receipt, values)

    def _enter_invalid(
        self, record: Record, receipt: Receipt, reason: InvalidRecord
    ) -> None:
        """Note what became of it; an item may include one that is only misplaced."""
        history = self._histories.get(record.key or b"")
        if history is not None and isinstance(reason, Misplaced):
            damage = history.include_misplaced(receipt)
            if damage is not None and receipt not in self.dead:
                self._report.tallies[damage].records += 1
                return
        tally = self._report.tallies[self._fate(receipt)]
        tally.records += 1
        tally.receipts.append(receipt)

    def _enter_update(
        self, key: bytes, receipt: Receipt, values: Mapping[str, str | None]
    ) -> None:
        """Fold an update in, or note why the item does not include it.

        An update that an earlier release took for invalid is a dead letter. The item
        may include it nevertheless: a rebuilt table does.
        """
        if key not in self._histories:
            self._histories[key] = History(self._shape)
        history = self._histories[key]
        dead = receipt in self.dead
        if dead:
            tally = self._report.tallies[Finding.DEAD_LETTERED]
            tally.records += 1
            tally.receipts.append(receipt)
        if not history.include(receipt, values, certain=not dead) and not dead:
            finding = self._fate(receipt)
            self._report.tallies[finding].records += 1
            history.note(finding, values)

    def _fate(self, receipt: Receipt) -> Finding:
        """What became of a record that no item includes."""
        if receipt in self.dead:
            return Finding.DEAD_LETTERED
        read = receipt.offset < self._committed.get(receipt.source.partition, 0)
        return Finding.LOST if read else Finding.BEHIND

    def close(self, spans: Spans) -> Report:
        for key, history in self._histories.items():
            for finding in history.findings(spans):
                self._report.tallies[finding].patients.append(key.decode())
        return self._report
