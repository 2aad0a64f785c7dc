"""The fields: what each takes, and that what the API takes the consumer takes."""

from __future__ import annotations

import json
from datetime import date
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.exceptions import ValidationError

from profiles.core import records, serializers
from profiles.core.records import NotStrictJSON, ProducerRecord
from profiles.core.updates import Update
from tests.fakes import record_of

# Characters that JSON and the fields allow: no surrogates, no controls.
CHARACTERS = st.characters(exclude_categories=["Cs", "Cc"])


def text(most: int) -> st.SearchStrategy[str]:
    return st.text(CHARACTERS, min_size=1, max_size=most)


VALID = {
    "FirstName": text(100),
    "LastName": text(100),
    "DateOfBirth": st.dates().map(date.isoformat),
    "Sex": st.sampled_from(["Female", "Male", "Other", "Unknown"]),
    "IsPregnant": st.sampled_from([True, False, "True", "False"]),
    "Email": st.sampled_from(["a@example.org", "john.doe+x@example.co.uk"]),
    "Phone": text(32),
    "Address": st.text(CHARACTERS | st.sampled_from("\n\r"), min_size=1, max_size=500),
}
BODIES = st.fixed_dictionaries(
    {"PatientId": text(128) | st.integers(-(10**18), 10**18)},
    optional={name: st.none() | values for name, values in VALID.items()},
)


def parse(body: object) -> ProducerRecord:
    return serializers.parse(json.dumps(body).encode())


def test_every_declared_field_is_tried():
    assert {"PatientId", *VALID} == serializers.PatientProfile().fields.keys()


@given(BODIES, st.booleans())
def test_what_the_api_accepts_is_never_dead_lettered(body, escaped):
    """And the consumer reads from the record the very update that was accepted."""
    posted = json.dumps(body, ensure_ascii=escaped).encode()
    accepted = serializers.parse(posted)
    record = record_of(accepted.value, records.key_of(accepted.patient_id))
    assert serializers.validate(record) == accepted
    fields = {n: None if value is None else str(value) for n, value in body.items()}
    del fields["PatientId"]
    assert serializers.decode(record, 1) == Update(str(body["PatientId"]), fields)


def test_the_largest_update_is_under_the_record_limit():
    widest = "\N{GRINNING FACE}"
    lengths = {"FirstName": 100, "LastName": 100, "Phone": 32, "Address": 500}
    fields = {name: widest * most for name, most in lengths.items()}
    update = parse({"PatientId": widest * 128, **fields})
    assert len(update.value) < records.MAX_VALUE_BYTES / 8


def test_null_and_absent_are_kept_apart():
    assert (
        parse({"PatientId": "1", "Sex": None}).value == b'{"PatientId":"1","Sex":null}'
    )
    assert parse({"PatientId": "1"}).value == b'{"PatientId":"1"}'


def test_nothing_is_trimmed():
    update = parse({"PatientId": " 1 ", "FirstName": " John "})
    assert update == ProducerRecord(" 1 ", b'{"PatientId":" 1 ","FirstName":" John "}')


@pytest.mark.parametrize(
    ("given", "taken"), [(1, "1"), (-7, "-7"), (10**30, "1" + "0" * 30), ("01", "01")]
)
def test_an_integer_patient_id_is_taken_as_its_string(given, taken):
    update = parse({"PatientId": given})
    assert update.patient_id == json.loads(update.value)["PatientId"] == taken


@pytest.mark.parametrize(
    ("given", "stored"),
    [(True, "True"), (False, "False"), ("True", "True"), ("False", "False")],
    ids=repr,
)
def test_is_pregnant_is_stored_as_a_word(given, stored):
    update = parse({"PatientId": "1", "IsPregnant": given})
    assert json.loads(update.value)["IsPregnant"] == stored


def test_an_address_has_lines():
    update = parse({"PatientId": "1", "Address": "1 High St\nLeeds"})
    assert json.loads(update.value)["Address"] == "1 High St\nLeeds"


REFUSED: dict[str, list[Any]] = {
    "PatientId": [
        None,
        "",
        "x" * 129,
        "a\x07",
        "a\nb",
        "a\x7f",
        "a\x85",
        ".",
        "..",
        1.5,
        True,
        [],
    ],
    "FirstName": ["", "x" * 101, "a\x00b", "a\nb", 5, 1.5, True, ["John"], {}],
    "LastName": [5],
    "DateOfBirth": [
        "2024-02-30",
        "1984-1-1",
        "19840101",
        "1984-W01-1",
        "1984-01-01T00:00:00",
        " 1984-01-01",
        "0000-01-01",
        "١٩٨٤-01-01",
        19840101,
    ],
    "Sex": ["female", "F", "Female ", 1, True],
    "IsPregnant": ["true", "off", "yes", "1", 1, 0, "Maybe"],
    "Email": ["john", "john@", "a b@example.org", "x" * 250 + "@example.org", 1],
    "Phone": ["1" * 33, 1234, "12\n34"],
    "Address": ["x" * 501, "a\tb", "a\x00b", {}],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in REFUSED.items() for value in values],
    ids=repr,
)
def test_a_bad_value_is_refused_by_its_fields_name(name, value):
    with pytest.raises(ValidationError) as refused:
        parse({"PatientId": "1", name: value})
    named: Any = refused.value.detail
    assert {*named} == {name}


def test_all_bad_fields_are_named_at_once():
    with pytest.raises(ValidationError) as refused:
        parse({"Sex": "x", "Shoe": 44, "patientid": "1"})
    named: Any = refused.value.detail
    assert {*named} == {"PatientId", "Sex", "Shoe", "patientid"}


@pytest.mark.parametrize("name", ["PatientId", "Sex", "DateOfBirth", "Email", "Phone"])
def test_a_refusal_quotes_no_value(name):
    value = "Secret-\x07" + "x" * 600
    with pytest.raises(ValidationError) as refused:
        parse({"PatientId": "1", name: value})
    assert "Secret" not in str(refused.value)


EVERYDAY: list[dict[str, object]] = [
    {"PatientId": "patient-1"},
    {
        "PatientId": "1",
        "FirstName": "Zoë",
        "LastName": "O'Neill-Łukasik",
        "Phone": None,
    },
    {
        "PatientId": "李",
        "DateOfBirth": "2024-02-29",
        "Email": "john.doe+x@example.co.uk",
    },
    {"PatientId": "1", "Sex": "Female", "IsPregnant": "True", "Address": "1 High St"},
    {"PatientId": 7, "IsPregnant": True},
    {"PatientId": -7, "IsPregnant": False, "Phone": "a:true"},
    {"PatientId": "ª", "Address": "Straße nº 5\nMünchen\r\n", "LastName": "«a\\b»"},
]


@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("body", EVERYDAY, ids=repr)
def test_what_clients_send_every_day_is_plain_to_see(body, escaped):
    text = json.dumps(body, ensure_ascii=escaped, indent=1).encode()
    plain = serializers._plain.read(text)
    assert plain == serializers._parse_closely(text)
    array = b"[ " + text + b",\n" + text + b"]\n"
    assert serializers.parse_array(array, most=2) == [plain, plain]


MEMBERS = st.tuples(
    st.sampled_from([*serializers.PatientProfile().fields, "Shoe"]),
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=140)
    | st.text('a"\\{},:\x00\n\r\x7f\x85\xa0é', max_size=3)
    | st.emails()
    | st.dates().map(str)
    | st.sampled_from(["Female", "True", "a@b.c", "a..b@c.de", "2024-02-30", "", ".."])
    | st.lists(st.none(), max_size=1),
)


IDS = (
    st.just("1")
    | st.integers()
    | st.text(max_size=2)
    | st.sampled_from([True, None, 1.0, ".", 2**63, -(2**63), 10**130])
)


def _text_of(
    patient: object, members: list[tuple[str, object]], escaped: bool, space: str
) -> bytes:
    pairs = (
        f'{space}"{name}":{space}{json.dumps(value, ensure_ascii=escaped)}'
        for name, value in [("PatientId", patient), *members]
    )
    return f"{{{','.join(pairs)}}}".encode()


TEXTS = st.builds(
    _text_of,
    IDS,
    st.lists(MEMBERS, max_size=4),
    st.booleans(),
    st.sampled_from(["", " ", "\n"]),
)


@given(TEXTS)
def test_what_is_plain_to_see_is_what_a_closer_look_accepts(text):
    plain = serializers._plain.read(text)
    assert plain is None or plain == serializers._parse_closely(text)


@given(st.lists(TEXTS, max_size=3))
def test_what_is_read_at_once_is_what_a_closer_look_at_each_accepts(texts):
    found = serializers.parse_array(b"[" + b", ".join(texts) + b"]", most=3)
    assert found is None or found == [serializers._parse_closely(t) for t in texts]


@pytest.mark.parametrize("text", ['{"PatientId":"."}', '{"PatientId":"a\\u0085"}', "1"])
def test_one_that_needs_a_closer_look_has_all_of_its_array_looked_at(text):
    array = f'[{{"PatientId":"1"}},{text}]'.encode()
    assert serializers.parse_array(array, most=2) is None


@pytest.mark.parametrize(
    "members",
    [
        '"PatientId":-0',
        '"PatientId":1e2',
        '"PatientId":01',
        '"PatientId":"1","Phone":null,"Phone":"\\u0022\\u0022"',
        '"PatientId":"1","Phone":"\\\\u0022"',
        '"PatientId":"1","Phone":"\\u005c\\""',
        '"PatientId":"1","Phone":"\\ud800"',
        '"PatientId":1,"IsPregnant":true,"IsPregnant":false',
        '"PatientId":"1","IsPregnant":1',
        '"PatientId":"1","FirstName":true',
        '"PatientId":"1","FirstName":"a\\nb"',
        '"PatientId":"1","Address":"a\\tb"',
        '"PatientId":"1","Address":"a\\/\\u000a\u0085"',
    ],
)
def test_what_is_written_in_an_odd_way_is_taken_as_a_closer_look_takes_it(members):
    def either_way(read):
        try:
            return read(f"{{{members}}}".encode())
        except (NotStrictJSON, ValidationError) as refusal:
            return str(refusal)

    assert either_way(serializers.parse) == either_way(serializers._parse_closely)


def test_more_than_the_most_are_not_read_at_once(monkeypatch):
    array = b'[{"PatientId":"1"},{"PatientId":"2"},{"PatientId":"3"}]'
    assert serializers.parse_array(array, most=2) is None
    monkeypatch.setattr(records, "MANY_COMMAS", 1)
    assert serializers.parse_array(array, most=3) is None


PLAIN = [
    '{"PatientId":"1","FirstName":"Zoë","DateOfBirth":"2024-02-29","Sex":null}',
    '{"PatientId":12,"Address":"nº 5\\nBerlin","IsPregnant":true,"Phone":"a\\\\"}',
]


@pytest.mark.parametrize("cut", [0, 1])
@pytest.mark.parametrize("sound", [text.encode() for text in PLAIN])
def test_whatever_byte_comes_in_between_a_closer_look_says_the_same(sound, cut):
    for at, byte in product(range(len(sound)), range(256)):
        text = sound[:at] + bytes([byte]) + sound[at + cut :]
        plain = serializers._plain.read(text)
        assert plain is None or plain == serializers._parse_closely(text)
        array = b"[" + text + b"," + sound + b"]"
        found = serializers.parse_array(array, most=3)
        assert found is None or found == [
            serializers._parse_closely(each) for each in records.split(array, most=3)
        ]
