"""The record: an update as it stands on the Kafka topic.

In: a PatientId, or bytes. Out: the key, or the JSON that the bytes hold. A record that
cannot be an update is an `InvalidRecord`, and whether it is depends on the record
alone. Does not know the fields: `serializers` declares them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal, cast

import msgspec

from profiles.core.updates import MergedUpdate, Source, Update

MAX_VALUE_BYTES = 64 * 1024
"""The API's body limit too; a validated update is always smaller."""

MANY_COMMAS = 200_000
"""More than ten thousand profiles have. Split as others are, 8 MiB of the smallest
elements would take half a gigabyte."""

HASHES_KEPT = 16_384
"""Some 3 MB; a hash that is not kept costs half as much as all else of decoding."""

DOTS = frozenset((".", ".."))
"""No PatientId: clients leave these out of an address (RFC 3986, 5.2.4)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)

Headers = Sequence[tuple[str, str | bytes | None]]
Code = Literal[
    "no_key",
    "no_value",
    "too_large",
    "bad_timestamp",
    "not_json",
    "invalid_fields",
    "key_mismatch",
    "wrong_partition",
]
WRONG_PARTITION: Code = "wrong_partition"


class InvalidRecord(ValueError):
    """This record can never be applied: dead-letter it.

    `detail` names fields or partitions, never values.
    """

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class Misplaced(InvalidRecord):
    """A valid update outside the partition of its key: nothing orders it with others."""

    def __init__(self, partition: int, home: int) -> None:
        super().__init__(
            WRONG_PARTITION, f"in partition {partition}, and its key belongs in {home}"
        )


class NotStrictJSON(ValueError):
    """The bytes are not JSON as RFC 8259 and I-JSON (RFC 7493) want it."""


class ProducerRecord(msgspec.Struct, frozen=True, gc=False):
    """An update on its way to the topic; its PatientId is the key.

    The value is JSON: PatientId and the supplied fields, UTF-8, nothing else.
    """

    patient_id: str
    value: bytes

    def __repr__(self) -> str:
        return f"ProducerRecord(patient_id={self.patient_id!r})"


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the topic, bytes untouched; `timestamp_ms` is -1 where absent."""

    topic: str
    source: Source
    offset: int
    timestamp_ms: int
    key: bytes | None = field(repr=False)
    value: bytes | None = field(repr=False)
    headers: Headers = field(repr=False, default=())

    def merged(self, update: Update) -> MergedUpdate:
        """The update that this record holds, with this record's place in the log."""
        return MergedUpdate(
            update.patient_id,
            update.fields,
            self.source,
            self.offset,
            self.timestamp_ms,
        )


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that is no update, and why."""

    record: Record
    reason: InvalidRecord


def key_of(patient_id: str) -> bytes:
    """The message key: Kafka keeps the order of records that share it."""
    return patient_id.encode()


def partition_of(patient_id: str, partitions: int) -> int:
    """Where the Java clients' default partitioner puts a key: murmur2, its sign bit cut."""
    return _hash(patient_id) % partitions


def split(array: bytes, most: int) -> list[bytes]:
    """The JSON text of each element of an array, and of no more than one over `most`.

    An element is yet to be read strictly: its names and its text were passed over.
    Raises NotStrictJSON.
    """
    if array.count(b",") > MANY_COMMAS:
        elements = cast(list[object], load_json(array))[: most + 1]
        return [json.dumps(each, ensure_ascii=False).encode() for each in elements]
    try:
        return [bytes(element) for element in _ARRAY.decode(array)]
    except (ValueError, RecursionError):
        load_json(array)  # says what is wrong, and where
        raise NotStrictJSON("nested too deeply") from None


def load_json(body: bytes) -> object:
    """Read JSON strictly: no duplicate keys, NaN, lone surrogates or deep nesting.

    Raises NotStrictJSON, whose text gives a position but quotes nothing.
    """
    try:
        value = _STRICT.decode(body.decode())
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise NotStrictJSON(f"not UTF-8 at byte {error.start}") from None
    except UnicodeEncodeError:
        raise NotStrictJSON("a lone surrogate (\\ud800-\\udfff) is no text") from None
    except RecursionError:
        raise NotStrictJSON("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise NotStrictJSON(f"{error.msg} at character {error.pos}") from None
    except NotStrictJSON:
        raise
    except ValueError:
        raise NotStrictJSON("a number has too many digits") from None
    return value


def value_of(record: Record) -> bytes:
    """The value of a record whose key, size and timestamp are in order."""
    if not record.key:
        raise InvalidRecord("no_key", "the record has no key")
    if record.value is None:
        raise InvalidRecord("no_value", "the record has no value")
    if len(record.value) > MAX_VALUE_BYTES:
        raise InvalidRecord("too_large", f"the value is over {MAX_VALUE_BYTES} bytes")
    if not 0 <= record.timestamp_ms <= _LAST_MS:
        raise InvalidRecord("bad_timestamp", "the timestamp is no date")
    return record.value


def check_key(record: Record, patient_id: str) -> None:
    """Refuse a record whose key is not its PatientId: its order is not kept."""
    if record.key != key_of(patient_id):
        raise InvalidRecord("key_mismatch", "the key is not the body's PatientId")


def check_partition(record: Record, patient_id: str, partitions: int) -> None:
    """Refuse a record outside its patient's partition; raises Misplaced.

    `partitions` is the fixed count by which the topic's keys are placed.
    """
    home = partition_of(patient_id, partitions)
    if record.source.partition != home:
        raise Misplaced(record.source.partition, home)


@lru_cache(HASHES_KEPT)
def _hash(patient_id: str) -> int:
    return _murmur2(key_of(patient_id)) & 0x7FFFFFFF


def _murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, with Kafka's seed (org.apache.kafka.common.utils.Utils)."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    size = len(data)
    h = 0x9747B28C ^ size
    for k in struct.unpack_from(f"<{size >> 2}I", data):
        k = k * m & mask
        h = h * m & mask ^ (k ^ k >> 24) * m & mask
    if tail := data[size & ~3 :]:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotStrictJSON("an object has the same key twice")
    return members


def _refuse_constant(name: str) -> object:
    raise NotStrictJSON(f"{name} is no JSON number")


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)

_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
