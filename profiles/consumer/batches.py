"""The batch: records, decoded, and merged per patient.

In: records of our partitions. Out: merged updates and dead letters, and the offsets that
may be committed once both are written. Performs no I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

from profiles.consumer.assignment import End
from profiles.core import serializers
from profiles.core.records import DeadLetter, Headers, InvalidRecord, Record
from profiles.core.updates import MergedUpdate, merge

BATCH_RECORDS = 2000
BATCH_BYTES = 4 * 1024 * 1024
"""Of keys, values and headers, those of dead letters too."""

T = TypeVar("T")


@dataclass(slots=True)
class Batch:
    """What is to be written, and what to commit after that.

    `updates` are in the order of the log; `merge` leaves one of each patient. `ends`,
    `headers` and `bytes` are by partition. `applied` and `already` count what is written:
    changed, and refused by the fence.
    """

    updates: list[MergedUpdate] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    ends: dict[int, End] = field(default_factory=dict)
    headers: dict[int, list[Headers]] = field(default_factory=dict, repr=False)
    bytes: dict[int, int] = field(default_factory=dict)
    applied: int = 0
    already: int = 0

    @property
    def size(self) -> int:
        """The number of writes that are left."""
        return len(self.updates) + len(self.letters)

    @property
    def carried(self) -> list[Headers]:
        """The headers of each record."""
        return [*chain.from_iterable(self.headers.values())]

    @property
    def room(self) -> int:
        """The number of records that may still be added."""
        if sum(self.bytes.values()) >= BATCH_BYTES:
            return 0
        return max(0, BATCH_RECORDS - sum(map(len, self.headers.values())))

    def add(self, record: Record, epoch: int, partitions: int) -> None:
        """Decode the next record of its partition; an invalid one is a dead letter.

        `epoch` is its leader's. Keys are placed by the number of `partitions`.
        """
        partition = record.source.partition
        self.headers.setdefault(partition, []).append(record.headers)
        self.bytes[partition] = self.bytes.get(partition, 0) + _bytes(record)
        self.ends[partition] = End(record.offset + 1, epoch)
        try:
            update = serializers.decode(record, partitions)
        except InvalidRecord as reason:
            self.letters.append(DeadLetter(record, reason))
        else:
            self.updates.append(update)

    def merge(self) -> int:
        """Fold the updates of each patient into one; returns how many that saves."""
        before, self.updates = len(self.updates), merge(self.updates)
        return before - len(self.updates)

    def keep(self, updates: Collection[MergedUpdate]) -> None:
        """Only these are still to be written, if their partition was not revoked."""
        self.updates = [u for u in updates if u.source.partition in self.ends]

    def drop(self, revoked: Collection[int]) -> None:
        """Forget all of partitions that were revoked."""
        self.ends = _without(revoked, self.ends)
        self.headers = _without(revoked, self.headers)
        self.bytes = _without(revoked, self.bytes)
        self.letters = [
            letter
            for letter in self.letters
            if letter.record.source.partition in self.ends
        ]
        self.keep(self.updates)


def _without(revoked: Collection[int], by_partition: Mapping[int, T]) -> dict[int, T]:
    return {p: each for p, each in by_partition.items() if p not in revoked}


def _bytes(record: Record) -> int:
    """Any of a record's parts may be large: not only the API writes to the topic."""
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers
