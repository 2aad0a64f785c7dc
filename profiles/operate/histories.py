"""The history: one patient's item, compared with the patient's records in the log.

In: an item, then its patient's records in log order. Out: the findings. Of the item's
values it keeps hashes only: they are small, and no value can be printed. Plain Python.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from profiles.core.items import (
    FENCE_PREFIX,
    KEY,
    MARK,
    UPDATED_AT,
    Item,
    fence_receipts,
    held_by,
    trusts_fence,
)
from profiles.core.records import partition_of
from profiles.core.updates import Incarnation, Receipt

Spans = Mapping[int, range]
"""The offsets that each partition's log retains."""

HASH_BYTES = 8


class Finding(StrEnum):
    """What the audit finds for a patient, or for an invalid record."""

    IN_ORDER = "in order"
    BEHIND = "behind"
    LOST = "lost"
    STALE = "stale"
    DIVERGED = "diverged"
    UNKNOWN = "unknown"
    DEAD_LETTERED = "dead-lettered"
    NOT_JUDGED = "not judged"


DAMAGE = frozenset({Finding.LOST, Finding.STALE, Finding.DIVERGED, Finding.UNKNOWN})

_NOTHING: frozenset[Finding] = frozenset()


class Shape:
    """The attributes that updates write, one bit each, for a topic and a table."""

    def __init__(
        self, incarnation: Incarnation, partitions: int, fields: Sequence[str]
    ) -> None:
        self.incarnation = incarnation
        self.partitions = partitions
        self.bits = {name: 1 << i for i, name in enumerate([*fields, UPDATED_AT])}

    def digest(self, item: Item) -> bytes:
        """A hash of each attribute's value; an absent value has a hash too."""
        return b"".join(_hash(item.get(name, {}).get("S")) for name in self.bits)

    def shown(self, digest: bytes, values: Mapping[str, str | None]) -> int:
        """Which of these values the item shows; None is shown by an absent one."""
        return sum(
            bit
            for index, (name, bit) in enumerate(self.bits.items())
            if name in values and _at(digest, index) == _hash(values[name])
        )

    def mask(self, values: Mapping[str, str | None]) -> int:
        """Which attributes these values set or remove."""
        return sum(bit for name, bit in self.bits.items() if name in values)

    def present(self, digest: bytes) -> int:
        """Which attributes the item has."""
        bits = enumerate(self.bits.values())
        return sum(bit for index, bit in bits if _at(digest, index) != _hash(None))

    def home(self, item: Item) -> int:
        """The partition of the item's patient."""
        return partition_of(item[KEY]["S"], self.partitions)

    def allows(self, item: Item) -> bool:
        """Whether updates can have written every attribute of the item."""
        return all(
            name in (KEY, MARK)
            or name.startswith(FENCE_PREFIX)
            or (name in self.bits and "S" in value)
            for name, value in item.items()
        )


class Fold:
    """The records of one patient in one partition, up to the item's fence there.

    Three sets of attributes: `held` by some record; those of which the item shows the
    `last` value; those of which it shows `some` value. A fence that is not `trusted`
    belongs to another table: there, no record is included yet.
    """

    __slots__ = ("at_home", "explained", "fence", "held", "last", "partition", "some")

    def __init__(self, fence: Receipt, home: int, trusted: bool) -> None:
        self.partition = fence.source.partition
        self.at_home = self.partition == home
        self.fence = fence.offset if trusted else -1
        self.held = self.last = self.some = 0
        self.explained = not trusted

    def add(self, offset: int, held: int, shown: int) -> None:
        """Fold in the next record: what it holds, and which of that the item shows."""
        self.explained |= offset == self.fence
        self.held |= held
        self.last = self.last & ~held | shown
        self.some |= shown

    def is_truncated(self, spans: Spans) -> bool:
        """Whether records up to the fence may be gone from the log."""
        return self.partition in spans and spans[self.partition].start > 0

    def is_unexplained(self, spans: Spans) -> bool:
        """Whether no valid record of the patient is at the fence's offset."""
        first = spans[self.partition].start if self.partition in spans else 0
        return not self.explained and not 0 <= self.fence < first

    def is_misplaced(self, spans: Spans) -> bool:
        """Whether the item includes records outside the patient's partition."""
        return not self.at_home and not self.is_unexplained(spans)


class History:
    """One patient's item, and the records that were read so far."""

    __slots__ = (
        "_ahead",
        "_digest",
        "_folds",
        "_foreign",
        "_noted",
        "_of_this_topic",
        "_shape",
        "_unfenced",
    )

    def __init__(self, shape: Shape, item: Item | None = None) -> None:
        fences = list(fence_receipts(item or {}))
        home = -1 if item is None else shape.home(item)
        trusted = trusts_fence(held_by(item or {}), shape.incarnation)
        folds = [
            Fold(fence, home, trusted)
            for fence in fences
            if fence and fence.source.topic_id == shape.incarnation.topic_id
        ]
        self._shape = shape
        self._digest = None if item is None else shape.digest(item)
        self._foreign = item is not None and not shape.allows(item)
        self._folds = tuple(folds)
        self._noted = _NOTHING
        self._ahead = 0
        self._unfenced = item is not None and (not fences or None in fences)
        self._of_this_topic = len(folds) == len(fences)

    def include(
        self, receipt: Receipt, values: Mapping[str, str | None], certain: bool
    ) -> bool:
        """Fold the record in if the item's fence includes it.

        Returns whether the record needs no finding of its own: it is included, or the
        item has no readable fence. Of a record that is not `certain` to be in the
        item, only the values that the item shows are folded in.
        """
        for fold in self._folds:
            same = fold.partition == receipt.source.partition
            if same and receipt.offset <= fold.fence:
                shown = self._shape.shown(self._digest or b"", values)
                held = self._shape.mask(values) if certain else shown
                fold.add(receipt.offset, held, shown)
                return True
        return self._unfenced

    def include_misplaced(self, receipt: Receipt) -> Finding | None:
        """The damage, if the item includes a record outside the patient's partition.

        An earlier release applied such records; this one does not.
        """
        if not self.include(receipt, {}, certain=False):
            return None
        return Finding.UNKNOWN if self._unfenced else Finding.DIVERGED

    def note(self, finding: Finding, values: Mapping[str, str | None]) -> None:
        """Keep the finding of a record that is not included.

        The item of a restored table may show values of records that are behind.
        """
        self._noted |= {finding}
        if finding is Finding.BEHIND and self._digest is not None:
            self._ahead |= self._shape.shown(self._digest, values)

    def findings(self, spans: Spans) -> frozenset[Finding]:
        """What is found for the patient, after the last record."""
        if self._digest is None:
            return self._noted
        if self._unfenced:
            return frozenset({Finding.UNKNOWN})
        found = {*self._noted}
        if any(fold.is_unexplained(spans) for fold in self._folds):
            found.add(Finding.UNKNOWN)
        if any(fold.is_misplaced(spans) for fold in self._folds):
            # Records of two partitions have no order: no value can be proven right.
            found.add(Finding.DIVERGED)
        else:
            found |= self._judge(self._digest, spans)
        return frozenset(found or {Finding.IN_ORDER})

    def _judge(self, digest: bytes, spans: Spans) -> set[Finding]:
        """Compare the item's attributes with the fold of the records.

        A wrong attribute is stale if the item shows an earlier value or none: every
        history begins with none. An attribute that no record holds can be judged only
        if the log retains the whole history.
        """
        held = last = some = 0
        for fold in self._folds:
            held, last, some = held | fold.held, last | fold.last, some | fold.some
        whole = self._is_whole(spans)
        present = self._shape.present(digest)
        wrong = held & ~last
        stale = wrong & (some | ~present)
        invented = wrong & ~stale
        if whole:
            invented |= present & ~held & ~self._ahead
        findings = {
            Finding.STALE: stale,
            Finding.DIVERGED: invented or (whole and self._foreign),
            Finding.NOT_JUDGED: not whole,
        }
        return {finding for finding, found in findings.items() if found}

    def _is_whole(self, spans: Spans) -> bool:
        """Whether the log retains every record that the item includes."""
        truncated = any(fold.is_truncated(spans) for fold in self._folds)
        return self._of_this_topic and not truncated


def _hash(value: str | None) -> bytes:
    return hash(value).to_bytes(HASH_BYTES, "little", signed=True)


def _at(digest: bytes, index: int) -> bytes:
    return digest[index * HASH_BYTES : (index + 1) * HASH_BYTES]
