"""The history: one patient's records in the log, held against the patient's item.

In: an item, then its patient's records in log order. Out: what is found of them. Of
the item's values it keeps hashes only: they are small, and nothing that could be
printed. Plain Python: it calls nobody.
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
    """What is found of a patient, or of a record that is no update."""

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
    """The attributes that an item may show, one bit each; its topic and its table."""

    def __init__(
        self, incarnation: Incarnation, partitions: int, fields: Sequence[str]
    ) -> None:
        self.incarnation = incarnation
        self.partitions = partitions
        self.bits = {name: 1 << i for i, name in enumerate([*fields, UPDATED_AT])}

    def digest(self, item: Item) -> bytes:
        """A hash of each value that the item shows; an absent one has a hash too."""
        return b"".join(_hash(item.get(name, {}).get("S")) for name in self.bits)

    def shown(self, digest: bytes, values: Mapping[str, str | None]) -> int:
        """Those of the values that the digest shows; None where none is to show."""
        return sum(
            bit
            for index, (name, bit) in enumerate(self.bits.items())
            if name in values and _at(digest, index) == _hash(values[name])
        )

    def mask(self, values: Mapping[str, str | None]) -> int:
        """The attributes that have a value among these, or are removed."""
        return sum(bit for name, bit in self.bits.items() if name in values)

    def present(self, digest: bytes) -> int:
        """The attributes that the digest shows with some value."""
        bits = enumerate(self.bits.values())
        return sum(bit for index, bit in bits if _at(digest, index) != _hash(None))

    def home(self, item: Item) -> int:
        """The partition of the item's patient."""
        return partition_of(item[KEY]["S"], self.partitions)

    def explains(self, item: Item) -> bool:
        """Whether every attribute is one that an update could have written."""
        return all(
            name in (KEY, MARK)
            or name.startswith(FENCE_PREFIX)
            or (name in self.bits and "S" in value)
            for name, value in item.items()
        )


class Fold:
    """One partition's records of a patient, up to the item's fence there.

    Three sets of attributes: `held` by some record, those whose `last` value the item
    shows, and those of which it shows `some` value. A fence that is not `trusted` is
    of another table: the consumer goes on from before the first record.
    """

    __slots__ = ("at_home", "explained", "fence", "held", "last", "partition", "some")

    def __init__(self, fence: Receipt, home: int, trusted: bool) -> None:
        self.partition = fence.source.partition
        self.at_home = self.partition == home
        self.fence = fence.offset if trusted else -1
        self.held = self.last = self.some = 0
        self.explained = not trusted

    def add(self, offset: int, held: int, shown: int) -> None:
        """Fold in the next record."""
        self.explained |= offset == self.fence
        self.held |= held
        self.last = self.last & ~held | shown
        self.some |= shown

    def is_truncated(self, spans: Spans) -> bool:
        """Whether records up to the fence may be gone from the log."""
        return self.partition in spans and spans[self.partition].start > 0

    def is_unexplained(self, spans: Spans) -> bool:
        """Whether the record that the fence names is none of this patient."""
        first = spans[self.partition].start if self.partition in spans else 0
        return not self.explained and not 0 <= self.fence < first

    def is_misplaced(self, spans: Spans) -> bool:
        """Whether records are included that belong in another partition."""
        return not self.at_home and not self.is_unexplained(spans)


class History:
    """One patient's item, and what the records read so far say of it."""

    __slots__ = (
        "_ahead",
        "_digest",
        "_folds",
        "_noted",
        "_odd",
        "_shape",
        "_unfenced",
        "_whole",
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
        self._odd = item is not None and not shape.explains(item)
        self._folds = tuple(folds)
        self._noted = _NOTHING
        self._ahead = 0
        self._unfenced = item is not None and (not fences or None in fences)
        self._whole = len(folds) == len(fences)

    def include(
        self, place: Receipt, values: Mapping[str, str | None], certain: bool
    ) -> bool:
        """Fold a record in, if the item's fence says that it is applied.

        Returns whether nothing more is to be said of the record: where no fence can be
        read, nothing can. One that is not certain may have been left out: only what the item shows of
        it counts.
        """
        for fold in self._folds:
            if fold.partition == place.source.partition and place.offset <= fold.fence:
                shown = self._shape.shown(self._digest or b"", values)
                held = self._shape.mask(values) if certain else shown
                fold.add(place.offset, held, shown)
                return True
        return self._unfenced

    def include_misplaced(self, place: Receipt) -> Finding | None:
        """What a record outside the patient's partition makes of the item, if it is in.

        An earlier release applied it: none is applied now.
        """
        if not self.include(place, {}, certain=False):
            return None
        return Finding.UNKNOWN if self._unfenced else Finding.DIVERGED

    def note(self, finding: Finding, values: Mapping[str, str | None]) -> None:
        """Keep what was found of a record that is not included.

        An item of a table that was restored may show what is yet to be applied.
        """
        self._noted |= {finding}
        if finding is Finding.BEHIND and self._digest is not None:
            self._ahead |= self._shape.shown(self._digest, values)

    def findings(self, spans: Spans) -> frozenset[Finding]:
        """What is found of the patient, once every record was read."""
        if self._digest is None:
            return self._noted
        if self._unfenced:
            return frozenset({Finding.UNKNOWN})
        found = {*self._noted}
        if any(fold.is_unexplained(spans) for fold in self._folds):
            found.add(Finding.UNKNOWN)
        if any(fold.is_misplaced(spans) for fold in self._folds):
            # Nothing kept the order of its records: no value proves it right.
            return frozenset({*found, Finding.DIVERGED})
        truncated = any(fold.is_truncated(spans) for fold in self._folds)
        found |= self._judge(self._digest, self._whole and not truncated)
        return frozenset(found or {Finding.IN_ORDER})

    def _judge(self, digest: bytes, whole: bool) -> set[Finding]:
        """Hold the values against the fold.

        Where the history is not whole, only what the retained records hold is judged.
        An absent value is the earliest of every history.
        """
        held = last = some = 0
        for fold in self._folds:
            held, last, some = held | fold.held, last | fold.last, some | fold.some
        present = self._shape.present(digest)
        earlier = some | ~present
        wrong = held & ~last
        invented = whole and (self._odd or present & ~held & ~self._ahead)
        judged = {
            Finding.STALE: wrong & earlier,
            Finding.DIVERGED: wrong & ~earlier or invented,
            Finding.NOT_JUDGED: not whole,
        }
        return {finding for finding, is_so in judged.items() if is_so}


def _hash(value: str | None) -> bytes:
    return hash(value).to_bytes(HASH_BYTES, "little", signed=True)


def _at(digest: bytes, index: int) -> bytes:
    return digest[index * HASH_BYTES : (index + 1) * HASH_BYTES]
