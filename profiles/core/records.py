"""The record: an update on the Kafka topic.

In: a PatientId, or bytes. Out: the key and its partition, or the JSON in the bytes. Why a
record is no update is an `InvalidRecord`; that depends on the record and the partition
count alone. Does not know the fields: `serializers` declares them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal, cast

import msgspec
from msgspec import Struct

from profiles.core.updates import Receipt, Source

MAX_VALUE_BYTES = 64 * 1024
"""The API's body limit too; a validated update is always smaller."""

MANY_COMMAS = 200_000
"""More than ten thousand profiles have. Above it, `split` saves memory: 8 MiB of the
smallest elements would take half a gigabyte."""

HASHES_KEPT = 16_384
"""About 3 MB. A hash takes half as long as the rest of decoding."""

DOTS = frozenset((".", ".."))
"""Not a PatientId: clients remove these from a URL's path (RFC 3986, 5.2.4)."""

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
    """This record can never be applied: it is a dead letter.

    `detail` names fields or partitions, never values.
    """

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class Misplaced(InvalidRecord):
    """A valid update in another partition than its key's: its order is unknown."""

    def __init__(self, partition: int, home: int) -> None:
        super().__init__(
            WRONG_PARTITION, f"in partition {partition}, and its key belongs in {home}"
        )


class NotStrictJSON(ValueError):
    """The bytes are not JSON by RFC 8259 and I-JSON (RFC 7493)."""


class ProducerRecord(Struct, frozen=True, gc=False):
    """An update on its way to the topic; its PatientId is the key.

    The value is JSON: PatientId and the supplied fields, UTF-8, nothing else.
    """

    patient_id: str
    value: bytes

    def __repr__(self) -> str:
        return f"ProducerRecord(patient_id={self.patient_id!r})"


class Record(Struct, frozen=True):
    """One record of the topic, bytes untouched; `timestamp_ms` is -1 where absent."""

    topic: str
    source: Source
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    def __repr__(self) -> str:
        return f"Record(topic={self.topic!r}, at={Receipt(self.source, self.offset)})"


class DeadLetter(Struct, frozen=True):
    """A record that is no update, and why."""

    record: Record
    reason: InvalidRecord


def key_of(patient_id: str) -> bytes:
    """The message key: Kafka keeps the order of records with the same key."""
    return patient_id.encode()


def partition_of(patient_id: str, partitions: int) -> int:
    """The key's partition, as the Java clients' default partitioner has it: murmur2
    without the sign bit.
    """
    return _hash(patient_id) % partitions


def split(array: bytes, most: int) -> list[bytes]:
    """The JSON text of each element of an array: at most one more than `most`.

    The elements are not read yet, and need not be strict JSON. Raises NotStrictJSON.
    """
    if array.count(b",") > MANY_COMMAS:
        elements = cast(list[object], load_json(array))[: most + 1]
        return [json.dumps(each, ensure_ascii=False).encode() for each in elements]
    try:
        return [bytes(element) for element in _ARRAY.decode(array)]
    except (ValueError, RecursionError):
        load_json(array)  # raises, with the position of the error
        raise NotStrictJSON("nested too deeply") from None


def load_json(body: bytes) -> object:
    """Read JSON strictly: no duplicate keys, NaN, lone surrogates or deep nesting.

    Raises NotStrictJSON, which gives a position and quotes nothing.
    """
    try:
        value = _STRICT.decode(body.decode())
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise NotStrictJSON(f"not UTF-8 at byte {error.start}") from None
    except UnicodeEncodeError:
        raise NotStrictJSON("a lone surrogate (\\ud800-\\udfff) is not text") from None
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
    """The value of a record; raises InvalidRecord if key, size or timestamp is wrong."""
    if not record.key:
        raise InvalidRecord("no_key", "the record has no key")
    if record.value is None:
        raise InvalidRecord("no_value", "the record has no value")
    if len(record.value) > MAX_VALUE_BYTES:
        raise InvalidRecord("too_large", f"the value is over {MAX_VALUE_BYTES} bytes")
    if not 0 <= record.timestamp_ms <= _LAST_MS:
        raise InvalidRecord("bad_timestamp", "the timestamp is not a date")
    return record.value


def check_key(record: Record, patient_id: str) -> None:
    """Refuse a record whose key is not its PatientId: its order is unknown."""
    if record.key != key_of(patient_id):
        raise InvalidRecord("key_mismatch", "the key is not the value's PatientId")


def check_partition(record: Record, patient_id: str, partitions: int) -> None:
    """Refuse a record outside its patient's partition; raises Misplaced.

    `partitions` is the topic's fixed partition count.
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
    raise NotStrictJSON(f"{name} is not a JSON number")


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)

_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
