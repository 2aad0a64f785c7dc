"""The batch: the records of one consume() call, decoded, and merged per patient.

In: records. Out: merged updates and dead letters, and the offsets that may be
committed once both are settled. Asks nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from profiles.core import serializers
from profiles.core.records import DeadLetter, Headers, InvalidRecord, Record
from profiles.core.updates import MergedUpdate, merge
from profiles.runtime import metrics


@dataclass(slots=True)
class Batch:
    """The records of one consume() call: what is still to be done, and what to commit.

    `ends` maps each partition to the offset after its last record. `proven` tells
    that its records are of the topic that its sources name.
    """

    updates: list[MergedUpdate] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)
    headers: list[Headers] = field(default_factory=list, repr=False)
    applied: int = 0
    already: int = 0
    proven: bool = False

    @property
    def size(self) -> int:
        """What is left to be done."""
        return len(self.updates) + len(self.letters)

    def drop(self, partitions: set[int]) -> None:
        """Forget what another member now owns."""
        self.updates = [u for u in self.updates if u.source.partition not in partitions]
        self.letters = [
            letter
            for letter in self.letters
            if letter.record.source.partition not in partitions
        ]
        self.ends = {p: end for p, end in self.ends.items() if p not in partitions}


def read_batch(records: Iterable[Record], partitions: int) -> Batch:
    """Decode records and merge them per patient; what is no update is a dead letter."""
    batch = Batch()
    decoded: list[MergedUpdate] = []
    for record in records:
        batch.headers.append(record.headers)
        batch.ends[record.source.partition] = record.offset + 1
        try:
            decoded.append(serializers.decode(record, partitions))
        except InvalidRecord as reason:
            batch.letters.append(DeadLetter(record, reason))
    batch.updates = merge(decoded)
    metrics.coalesced.inc(len(decoded) - len(batch.updates))
    return batch
