"""The audit: is every item the fold of its patient's records up to its own fence?

In: the readings of a running system. Out: a report, with PatientIds and counts and no
value. It takes them in an order that lets no concurrent write look like damage:

1. the committed offsets: what is below them was in the table, or a dead letter, before
2. the table: an item read later can only include more
3. the ends of the log: no fence that was read is past them
4. the dead letters and the log, up to those ends

It is handed the readings, and knows no Kafka and no DynamoDB.
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
    """The running system, read as the audit asks for it."""

    def committed(self) -> Mapping[int, int]: ...
    def items(self) -> Iterable[Item]: ...
    def spans(self) -> Spans: ...
    def dead_letters(self) -> Collection[Receipt]: ...
    def records(self, spans: Spans) -> Iterable[Record]: ...


@dataclass(frozen=True, slots=True)
class Sample:
    """A stable share of the patients: always the same ones, by a hash of the key."""

    parts: int = 1
    of: int = 1

    def has(self, key: bytes) -> bool:
        return crc32(key) % self.of < self.parts

    def __str__(self) -> str:
        return f"{self.parts}/{self.of}"


@dataclass(slots=True)
class Tally:
    """Those of one finding; a record that is no update has a place, but no patient."""

    patients: list[str] = field(default_factory=list)
    places: list[Receipt] = field(default_factory=list)
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
        """How many patients or records are not as the log says."""
        found = [self.tallies[finding] for finding in DAMAGE]
        return sum(len(tally.patients) + len(tally.places) for tally in found)


def audit(
    readings: Readings, incarnation: Incarnation, partitions: int, sample: Sample
) -> Report:
    """Take the readings in their order, fold, and compare.

    The topic's keys are placed by `partitions`.
    """
    shape = Shape(incarnation, partitions, serializers.FIELDS)
    ledger = _Ledger(shape, readings.committed())
    for item in readings.items():
        if sample.has(key_of(item[KEY]["S"])):
            ledger.enter_item(item)
    spans = readings.spans()
    ledger.dead = readings.dead_letters()
    for record in readings.records(spans):
        if sample.has(record.key or b""):
            ledger.enter_record(record)
    return ledger.close(spans)


class _Ledger:
    """The history of each patient by key, and the report as far as it is known."""

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
        place = Receipt(record.source, record.offset)
        try:
            update = serializers.decode(record, self._shape.partitions)
        except InvalidRecord as reason:
            self._enter_no_update(record, place, reason)
            return
        values = {**update.fields, UPDATED_AT: iso_timestamp(record.timestamp_ms)}
        self._enter_update(key_of(update.patient_id), place, values)

    def _enter_no_update(
        self, record: Record, place: Receipt, reason: InvalidRecord
    ) -> None:
        """Note where it went; an item may include one that is only misplaced."""
        history = self._histories.get(record.key or b"")
        if history is not None and isinstance(reason, Misplaced):
            damage = history.include_misplaced(place)
            if damage is not None and place not in self.dead:
                self._report.tallies[damage].records += 1
                return
        finding = self._fate(place)
        self._report.tallies[finding].records += 1
        self._report.tallies[finding].places.append(place)

    def _enter_update(
        self, key: bytes, place: Receipt, values: Mapping[str, str | None]
    ) -> None:
        """Fold an update in, or note why the item does not include it.

        One that an earlier release took for a dead letter may be in the item or not:
        a rebuilt table has it.
        """
        if key not in self._histories:
            self._histories[key] = History(self._shape)
        history = self._histories[key]
        dead = place in self.dead
        if dead:
            tally = self._report.tallies[Finding.DEAD_LETTERED]
            tally.records += 1
            tally.places.append(place)
        if not history.include(place, values, certain=not dead) and not dead:
            finding = self._fate(place)
            self._report.tallies[finding].records += 1
            history.note(finding, values)

    def _fate(self, place: Receipt) -> Finding:
        """What became of a record that is in no item."""
        if place in self.dead:
            return Finding.DEAD_LETTERED
        read = place.offset < self._committed.get(place.source.partition, 0)
        return Finding.LOST if read else Finding.BEHIND

    def close(self, spans: Spans) -> Report:
        for key, history in self._histories.items():
            for finding in history.findings(spans):
                self._report.tallies[finding].patients.append(key.decode())
        return self._report
