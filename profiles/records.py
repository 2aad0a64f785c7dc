"""The record: an update as it stands on the Kafka topic.

In: an update, or a record's bytes. Out: key and value bytes, or the JSON value that a
record holds. A record that cannot be an update is an `InvalidRecord`, and whether it
is depends on the record alone. Does not know the fields: `serializers` declares them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import NoneType

import orjson

from profiles.updates import MergedUpdate, Source, Update

MAX_VALUE_BYTES = 64 * 1024
"""The API's body limit too; a validated update is always smaller."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)

Headers = Sequence[tuple[str, str | bytes | None]]


class InvalidRecord(ValueError):
    """This record can never be applied: dead-letter it.

    `code` is one of a few fixed words; `detail` names fields, never values.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class NotStrictJSON(ValueError):
    """The bytes are not JSON as RFC 8259 and I-JSON (RFC 7493) want it."""


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
    return (_murmur2(key_of(patient_id)) & 0x7FFFFFFF) % partitions


def value_of(update: Update) -> bytes:
    """The JSON value: PatientId and the supplied fields, UTF-8, nothing else."""
    return orjson.dumps({"PatientId": update.patient_id, **update.fields})


def load_json(body: bytes) -> object:
    """Read JSON strictly: no duplicate keys, NaN, lone surrogates or deep nesting.

    Raises NotStrictJSON, whose text gives a position but quotes nothing.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _load_strictly(body)
    # A key that came twice was read once: its quotes are left over, as are those of
    # whatever else is not plain.
    return value if body.count(b'"') == _quotes(value) else _load_strictly(body)


def _quotes(value: object) -> int:
    """How many quotes plain objects take, one or an array; -1 for anything else."""
    quotes = 0
    for member in value if type(value) is list else (value,):
        if type(member) is not dict:
            return -1
        quotes += 2 * len(member)
        for text in member.values():
            if type(text) is str:
                quotes += 2
            elif type(text) not in _QUOTELESS:
                return -1
    return quotes


_QUOTELESS = (NoneType, bool)
"""Not numbers: orjson makes a float of a long integer."""


def _load_strictly(body: bytes) -> object:
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


def load_body(record: Record) -> object:
    """The JSON value of a record whose key, size and timestamp are in order."""
    if not record.key:
        raise InvalidRecord("no_key", "the record has no key")
    if record.value is None:
        raise InvalidRecord("no_value", "the record has no value")
    if len(record.value) > MAX_VALUE_BYTES:
        raise InvalidRecord("too_large", f"the value is over {MAX_VALUE_BYTES} bytes")
    if not 0 <= record.timestamp_ms <= _LAST_MS:
        raise InvalidRecord("bad_timestamp", "the timestamp is no date")
    try:
        return load_json(record.value)
    except NotStrictJSON as error:
        raise InvalidRecord("not_json", str(error)) from None


def check_key(record: Record, update: Update) -> None:
    """Refuse a record whose key is not its PatientId: its order is not kept."""
    if record.key != key_of(update.patient_id):
        raise InvalidRecord("key_mismatch", "the key is not the body's PatientId")


def _murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, with Kafka's seed (org.apache.kafka.common.utils.Utils)."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for (k,) in struct.iter_unpack("<I", data[:whole]):
        k = k * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    if tail := data[whole:]:
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
