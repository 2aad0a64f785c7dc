"""The batch: records, decoded, and merged per patient.

In: records of our partitions. Out: merged updates and dead letters, and the offsets that
may be committed once both are written. Performs no I/O.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from profiles.consumer.assignment import End
from profiles.core import serializers
from profiles.core.records import DeadLetter, Headers, InvalidRecord, Record
from profiles.core.updates import MergedUpdate, merge

BATCH_RECORDS = 2000
BATCH_BYTES = 4 * 1024 * 1024
"""Of values, those of dead letters too."""


@dataclass(slots=True)
class Batch:
    """What is to be written, and what to commit after that.

    `updates` are in the order of the log; `merge` leaves one of each patient. `ends` are
    by partition. `applied` and `already` count what is written: changed, and refused by
    the fence.
    """

    updates: list[MergedUpdate] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    ends: dict[int, End] = field(default_factory=dict)
    headers: list[Headers] = field(default_factory=list, repr=False)
    bytes: int = 0
    applied: int = 0
    already: int = 0

    @property
    def size(self) -> int:
        """The number of writes that are left."""
        return len(self.updates) + len(self.letters)

    @property
    def room(self) -> int:
        """The number of records that may still be added."""
        return BATCH_RECORDS - len(self.headers) if self.bytes < BATCH_BYTES else 0

    def add(self, record: Record, epoch: int, partitions: int) -> None:
        """Decode the next record of its partition; an invalid one is a dead letter.

        `epoch` is its leader's. Keys are placed by the number of `partitions`.
        """
        self.headers.append(record.headers)
        self.bytes += len(record.value or b"")
        self.ends[record.source.partition] = End(record.offset + 1, epoch)
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
        self.ends = {p: end for p, end in self.ends.items() if p not in revoked}
        self.letters = [
            letter
            for letter in self.letters
            if letter.record.source.partition in self.ends
        ]
        self.keep(self.updates)
