"""The batch: records, decoded, and merged per patient.

In: records of our partitions. Out: merged updates and dead letters, and the offsets that
may be committed once both are written. Calls nobody.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from profiles.consumer.assignment import End
from profiles.core import serializers
from profiles.core.records import DeadLetter, Headers, InvalidRecord, Record
from profiles.core.updates import MergedUpdate


@dataclass(slots=True)
class Batch:
    """What is still to be written, and what to commit after that.

    `updates` are by patient: all of a patient come from one partition. `ends` are by
    partition. `applied`, `already` and `folded` count updates: written, refused by the
    fence, and merged into a later one.
    """

    updates: dict[str, MergedUpdate] = field(default_factory=dict, repr=False)
    letters: list[DeadLetter] = field(default_factory=list)
    ends: dict[int, End] = field(default_factory=dict)
    headers: list[Headers] = field(default_factory=list, repr=False)
    folded: int = 0
    applied: int = 0
    already: int = 0

    @property
    def size(self) -> int:
        """The number of writes that are left."""
        return len(self.updates) + len(self.letters)

    def add(self, record: Record, epoch: int, partitions: int) -> None:
        """Decode the next record of its partition; an invalid one is a dead letter.

        `epoch` is its leader's. Keys are placed by the number of `partitions`.
        """
        self.headers.append(record.headers)
        self.ends[record.source.partition] = End(record.offset + 1, epoch)
        try:
            update = serializers.decode(record, partitions)
        except InvalidRecord as reason:
            self.letters.append(DeadLetter(record, reason))
            return
        if (earlier := self.updates.get(update.patient_id)) is not None:
            update = earlier.then(update)
            self.folded += 1
        self.updates[update.patient_id] = update

    def keep(self, updates: Collection[MergedUpdate]) -> None:
        """Only these updates are still to be written."""
        self.updates = {update.patient_id: update for update in updates}

    def drop(self, revoked: Collection[int]) -> None:
        """Forget all of partitions that were revoked."""
        self.keep([u for u in self.updates.values() if _of(u) not in revoked])
        self.letters = [
            each for each in self.letters if _of(each.record) not in revoked
        ]
        self.ends = {p: end for p, end in self.ends.items() if p not in revoked}


def _of(placed: MergedUpdate | Record) -> int:
    return placed.source.partition
