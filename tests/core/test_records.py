"""Records: strict JSON, and which records can never be an update."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from profiles.core import items, records, serializers
from profiles.core.records import InvalidRecord, Misplaced, NotStrictJSON
from profiles.core.updates import Source
from tests.fakes import TOPIC, record_of

YEAR_10000_MS = 253_402_300_800_000
PARTITIONS = TOPIC.partitions

NOT_JSON = {
    "an empty value": b"",
    "half an object": b'{"PatientId": "1"',
    "two values": b"{} {}",
    "a byte order mark": b'\xef\xbb\xbf{"PatientId": "1"}',
    "UTF-16": '{"PatientId": "1"}'.encode("utf-16"),
    "bytes that are no UTF-8": b'{"PatientId": "\xff"}',
    "an encoded surrogate": b'{"PatientId": "\xed\xa0\x80"}',
    "a lone surrogate": rb'{"PatientId": "\ud800"}',
    "a lone surrogate as a name": rb'{"PatientId": "1", "\udfff": "x"}',
    "a duplicate key": b'{"PatientId": "1", "PatientId": "2"}',
    "a duplicate key further in": b'{"PatientId": {"a": 1, "a": 1}}',
    "a duplicate key in other letters": rb'{"PatientId": "1", "\u0050atientId": "1"}',
    "NaN": b'{"PatientId": NaN}',
    "Infinity": b"[-Infinity]",
    "30,000 brackets": b"[" * 30_000,
    "30,000 brackets, closed": b"[" * 30_000 + b"]" * 30_000,
    "30,000 objects": b'{"a":' * 12_000,
    "an integer of 5,000 digits": b'{"PatientId": ' + b"9" * 5000 + b"}",
    "a control character": b'{"PatientId": "a\nb"}',
    "a trailing comma": b'{"PatientId": "1",}',
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_what_is_not_strict_json_is_refused(body):
    with pytest.raises(NotStrictJSON):
        records.load_json(body)
    with pytest.raises(InvalidRecord) as refused:
        serializers.decode(record_of(body), PARTITIONS)
    assert refused.value.code == "not_json"


@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_refused(body):
    try:
        value = records.load_json(body)
    except NotStrictJSON:
        return
    json.dumps(value, ensure_ascii=False).encode()


MEMBERS = st.lists(
    st.tuples(
        st.text('ab"\\é', max_size=2),
        st.text('a"\\é{}[]', max_size=3)
        | st.booleans()
        | st.none()
        | st.integers(-(10**25), 10**25)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.lists(st.integers(0, 9), max_size=2),
    ),
    max_size=4,
)


@given(st.lists(MEMBERS, min_size=1, max_size=3), st.booleans(), st.booleans())
def test_json_is_read_as_python_reads_it_unless_a_key_comes_twice(
    objects, as_array, escaped
):
    objects = objects if as_array else objects[:1]
    texts = [_object(members, escaped) for members in objects]
    body = (f"[{','.join(texts)}]" if as_array else texts[0]).encode()
    if all(len(dict(members)) == len(members) for members in objects):
        assert repr(records.load_json(body)) == repr(json.loads(body))
    else:
        with pytest.raises(NotStrictJSON):
            records.load_json(body)


def _object(members, escaped):
    pairs = (
        f"{json.dumps(name, ensure_ascii=escaped)}:{json.dumps(value, ensure_ascii=escaped)}"
        for name, value in members
    )
    return f"{{{','.join(pairs)}}}"


def test_a_surrogate_pair_is_a_character():
    assert records.load_json(rb'"\ud83d\ude00"') == "\N{GRINNING FACE}"


@pytest.mark.parametrize("depth", [100, 900, 990, 1000, 2000])
def test_nesting_of_any_depth_is_read_or_refused(depth):
    body = rb'["\u0041", ' + b"[" * depth + b"]" * depth + b"]"
    with suppress(NotStrictJSON):
        records.load_json(body)


ELEMENTS = [b'{"PatientId":"1"}', b"1", rb'"a,b\"],"', b"[1,[]]", b"null", b"1.5"]


@pytest.mark.parametrize("commas", [0, records.MANY_COMMAS])
def test_an_array_is_split_into_its_elements(commas, monkeypatch):
    monkeypatch.setattr(records, "MANY_COMMAS", commas)
    array = b" [ " + b" ,\n".join(ELEMENTS) + b" ] "
    found = records.split(array, most=10)
    assert [json.loads(text) for text in found] == [json.loads(e) for e in ELEMENTS]
    assert records.split(b"[]", most=10) == []


SPLITTING = """
import tracemalloc
from profiles.core import records

array = b"[" + b"1," * 2_000_000 + b"1]"
tracemalloc.start()
assert len(records.split(array, most=10)) == 11
assert tracemalloc.get_traced_memory()[1] < 8 * len(array)
"""


def test_a_large_array_of_tiny_elements_takes_little_memory():
    """In a process of its own: tracemalloc can crash beside other threads (gh-128679)."""
    subprocess.run([sys.executable, "-c", SPLITTING], check=True, timeout=60)


@pytest.mark.parametrize("commas", [0, records.MANY_COMMAS])
@pytest.mark.parametrize("array", [b"[1,]", b"[1 2]", b"[1", b"[1]]", b"[NaN,1]"])
def test_what_is_no_array_is_refused(array, commas, monkeypatch):
    monkeypatch.setattr(records, "MANY_COMMAS", commas)
    with pytest.raises(NotStrictJSON):
        records.split(array, most=10)


BAD_RECORDS = {
    "no_key": [record_of(b'{"PatientId":"1"}', None), record_of(b"{}", b"")],
    "no_value": [record_of(None)],
    "too_large": [record_of(b" " * 65_520 + b'{"PatientId":"1"}')],
    "bad_timestamp": [
        record_of(b'{"PatientId":"1"}', timestamp_ms=moment)
        for moment in (-1, -(2**63), 2**63 - 1, YEAR_10000_MS)
    ],
    "key_mismatch": [
        record_of(b'{"PatientId":"1"}', b"2"),
        record_of(b'{"PatientId":"1"}', b"1 "),
        record_of('{"PatientId":"é"}'.encode(), "é".encode("latin-1")),
    ],
    "invalid_fields": [
        record_of(b"{}"),
        record_of(b"[]"),
        record_of(b"null"),
        record_of(b'"1"'),
        record_of(b'{"PatientId":"1","Shoe":"44"}'),
        record_of(b'{"PatientId":"1","FirstName":5}'),
    ],
    "wrong_partition": [record_of(b'{"PatientId":"2"}', b"2")],
}


@pytest.mark.parametrize(
    ("code", "record"),
    [(code, record) for code, bad in BAD_RECORDS.items() for record in bad],
)
def test_a_record_that_is_no_update_says_why(code, record):
    with pytest.raises(InvalidRecord) as refused:
        serializers.decode(record, PARTITIONS)
    assert refused.value.code == code
    elsewhere = structs.replace(record, source=Source(TOPIC.id, 5))
    with pytest.raises(InvalidRecord) as refused:
        serializers.decode(elsewhere, PARTITIONS)
    assert refused.value.code == code


def test_every_reason_is_tried():
    assert {*BAD_RECORDS, "not_json"} == {*get_args(records.Code)}


@pytest.mark.parametrize("partition", range(PARTITIONS))
def test_a_record_is_an_update_in_the_partition_of_its_key_and_nowhere_else(partition):
    for patient in ("1", "2", "a/b", "患者", "x" * 128):
        value = json.dumps({"PatientId": patient}).encode()
        record = record_of(value, patient.encode())
        record = structs.replace(record, source=Source(TOPIC.id, partition))
        home = records.partition_of(patient, PARTITIONS)
        if partition == home:
            update = serializers.decode(record, PARTITIONS)
            assert (update.patient_id, update.fields) == (patient, {})
            continue
        says = rf"in partition {partition}, and its key belongs in {home}$"
        with pytest.raises(Misplaced, match=says):
            serializers.decode(record, PARTITIONS)
        assert serializers.validate(record).patient_id == patient


# From Kafka's own test of its murmur2, as Java's signed integers.
KAFKAS_HASHES = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


@pytest.mark.parametrize("key", KAFKAS_HASHES)
def test_a_key_belongs_where_kafkas_own_hash_puts_it(key):
    assert records.partition_of(key, 2**31) == KAFKAS_HASHES[key] & 0x7FFFFFFF


@pytest.mark.parametrize("moment", [0, 1, YEAR_10000_MS - 1])
def test_timestamps_from_1970_to_the_end_of_year_9999_are_dates(moment):
    record = record_of(b'{"PatientId":"1"}', timestamp_ms=moment)
    update = serializers.decode(record, PARTITIONS)
    assert items.iso_timestamp(update.timestamp_ms).endswith("+00:00")


def test_the_last_moment_of_year_9999_is_written_to_the_millisecond():
    assert items.iso_timestamp(YEAR_10000_MS - 1) == "9999-12-31T23:59:59.999+00:00"


def test_a_value_of_exactly_the_limit_is_read():
    body = b'{"PatientId":"1"}'
    record = record_of(b" " * (records.MAX_VALUE_BYTES - len(body)) + body)
    assert serializers.decode(record, PARTITIONS).fields == {}


def test_why_a_record_is_invalid_never_quotes_a_value():
    bodies = [
        b'{"PatientId":"1","Sex":"Secret"}',
        b'{"PatientId":"1","Secret":"Secret"}',
        b'{"PatientId":"1","Email":"Secret"}',
        b'{"PatientId":"1","Secret',
        b"Secret",
        b'{"Secret":1,"Secret":2}',
    ]
    for body in bodies:
        with pytest.raises(InvalidRecord) as refused:
            serializers.decode(record_of(body), PARTITIONS)
        assert "Secret" not in str(refused.value)


def test_a_record_shows_neither_key_nor_value():
    assert "Secret" not in repr(
        record_of(b"Secret", b"Secret", headers=[("Secret", b"")])
    )
    assert "Secret" not in repr(records.ProducerRecord("1", b"Secret"))
