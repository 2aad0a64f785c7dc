"""What the log promises of an item: the fold of its patient's records.

In: records as the topic holds them. Out: the updates among them, and the item after
each. Imports nothing of the project; knows no clients and no table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tests.chaos.observed import Item, Logged, Place

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FENCE_PREFIX = "_fence:"
MARK = "_incarnation"

Fence = tuple[str, int]
"""An item's fence attribute: its name, and the offset that it holds."""


@dataclass(frozen=True)
class Update:
    """A record that is an update: its fields as stored, None where one is removed."""

    place: Place
    timestamp_ms: int
    fields: Mapping[str, str | None] = field(repr=False)

    @property
    def fence(self) -> Fence:
        """The fence of an item that includes this update and no later one."""
        topic_id, partition, offset = self.place
        return f"{FENCE_PREFIX}{topic_id}:{partition}", offset


def as_update(record: Logged, partitions: int) -> Update | None:
    """The update that a record holds, None where it holds none.

    One outside the partition of its key is none: nothing orders it among the others.
    """
    try:
        body = json.loads(record.value or b"")
        _iso(record.timestamp_ms)
    except (ValueError, RecursionError, OverflowError):
        return None
    if not isinstance(body, dict):
        return None
    stored = as_stored(body).items()
    fields = {name: v for name, v in stored if v is None or isinstance(v, str)}
    key = (fields.get("PatientId") or "").encode(errors="surrogatepass")
    if len(fields) < len(body) or not key or key != record.key:
        return None
    if record.place.partition != (murmur2(key) & 0x7FFFFFFF) % partitions:
        return None
    return Update(record.place, record.timestamp_ms, fields)


def murmur2(key: bytes) -> int:
    """Kafka's hash of a key, without a sign."""
    h = 0x9747B28C ^ len(key)
    for at in range(0, len(key) - 3, 4):
        k = int.from_bytes(key[at : at + 4], "little") * 0x5BD1E995 % 2**32
        k = (k ^ k >> 24) * 0x5BD1E995 % 2**32
        h = h * 0x5BD1E995 % 2**32 ^ k
    if rest := len(key) % 4:
        h = (h ^ int.from_bytes(key[-rest:], "little")) * 0x5BD1E995 % 2**32
    h = (h ^ h >> 13) * 0x5BD1E995 % 2**32
    return h ^ h >> 15


def as_stored(body: Mapping[str, object]) -> dict[str, object]:
    """The fields as an item holds them: booleans and an integer PatientId are text."""
    return {
        name: str(value)
        if isinstance(value, bool) or (name == "PatientId" and isinstance(value, int))
        else value
        for name, value in body.items()
    }


def fold(updates: Sequence[Update]) -> dict[Fence, Item]:
    """The item after each of one patient's updates, by the fence that it then has."""
    states: dict[Fence, Item] = {}
    fields: dict[str, str | None] = {}
    for update in updates:
        fields |= update.fields
        name, offset = update.fence
        states[update.fence] = {
            **{key: {"S": value} for key, value in fields.items() if value is not None},
            "UpdatedAt": {"S": _iso(update.timestamp_ms)},
            name: {"N": str(offset)},
        }
    return states


def fences(item: Item | None) -> list[Fence]:
    return [
        (name, int(value["N"]))
        for name, value in (item or {}).items()
        if name.startswith(FENCE_PREFIX)
    ]


def explains(states: Mapping[Fence, Item], item: Item | None) -> bool:
    """Whether an item is the fold up to its fence; so is one that is not there.

    Its mark has to name the topic of that fence.
    """
    if item is None:
        return True
    shown, unmarked = fences(item), {n: v for n, v in item.items() if n != MARK}
    return (
        len(shown) == 1
        and unmarked == states.get(shown[0])
        and shown[0][0].startswith(f"{FENCE_PREFIX}{_marked_topic(item)}:")
    )


def _marked_topic(item: Item) -> str:
    return str(item.get(MARK, {}).get("S", "")).partition(" ")[0]


def without_effect(updates: Sequence[Update], item: Item | None) -> set[Place]:
    """The updates past the item's fence, or whose last word the item does not show."""
    reached = dict(fences(item))
    missing: set[Place] = set()
    last_word: dict[str, Update] = {}
    for update in updates:
        name, offset = update.fence
        if offset > reached.get(name, -1):
            missing.add(update.place)
        else:
            last_word |= dict.fromkeys(update.fields, update)
    for name, update in last_word.items():
        value = update.fields[name]
        if (item or {}).get(name) != (None if value is None else {"S": value}):
            missing.add(update.place)
    return missing


def _iso(timestamp_ms: int) -> str:
    moment = EPOCH + timedelta(milliseconds=timestamp_ms)
    return moment.isoformat(timespec="milliseconds")
