"""The update: what a client asks for, and how updates of one patient fold into one.

In: a PatientId and the fields that were supplied. Out: merged updates, each with the
place in the log up to which it speaks. Knows nothing of Kafka, DynamoDB or Django:
the standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_RECEIPT = re.compile(r"([A-Za-z0-9_-]{1,64})\.(\d{1,9})\.(\d{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Update:
    """One patient's supplied fields; ``None`` removes a field (RFC 7396)."""

    patient_id: str
    fields: Mapping[str, str | None] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Source:
    """One partition of one incarnation of a topic: offsets compare only within it."""

    topic_id: str
    partition: int


@dataclass(frozen=True, slots=True)
class Incarnation:
    """A topic and a table, each by its id: what a consumer reads, and what it writes.

    Its text marks the offsets that are committed for it, and the items it has written.
    No id is ever given twice, so a former incarnation does not come back.
    """

    topic_id: str
    table_id: str

    def __str__(self) -> str:
        return f"{self.topic_id} {self.table_id}"

    @classmethod
    def parse(cls, mark: str) -> Incarnation:
        """Read what `str` writes."""
        topic_id, _, table_id = mark.partition(" ")
        return cls(topic_id, table_id)


@dataclass(slots=True, unsafe_hash=True)
class Receipt:
    """Where an accepted update stands in the log.

    Nobody changes one: it is not frozen, for that takes more than twice as long to make.
    """

    source: Source
    offset: int

    def __str__(self) -> str:
        return f"{self.source.topic_id}.{self.source.partition}.{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Receipt:
        """Read what `str` writes; raises ValueError."""
        found = _RECEIPT.fullmatch(text)
        if found is None:
            raise ValueError("not a receipt")
        topic_id, partition, offset = found.groups()
        return cls(Source(topic_id, int(partition)), int(offset))


@dataclass(frozen=True, slots=True)
class MergedUpdate:
    """All updates of one patient and source in a batch, folded into one.

    It carries the last folded record's offset and timestamp (milliseconds since the
    epoch), so that applying it once equals applying each of them in order.
    """

    patient_id: str
    fields: Mapping[str, str | None] = field(repr=False)
    source: Source
    offset: int
    timestamp_ms: int

    def then(self, later: MergedUpdate) -> MergedUpdate:
        """Fold a later update of the same patient and source into this one."""
        return MergedUpdate(
            self.patient_id,
            {**self.fields, **later.fields},
            self.source,
            later.offset,
            later.timestamp_ms,
        )


def merge(updates: Iterable[MergedUpdate]) -> list[MergedUpdate]:
    """Fold updates, given in log order, into one per (source, patient)."""
    merged: dict[tuple[Source, str], MergedUpdate] = {}
    for update in updates:
        key = (update.source, update.patient_id)
        merged[key] = merged[key].then(update) if key in merged else update
    return list(merged.values())
