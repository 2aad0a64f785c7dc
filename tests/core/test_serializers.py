"""The fields: what each takes, and that what the API takes the consumer takes."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.exceptions import ValidationError

from profiles.core import records, serializers
from profiles.core.records import NotStrictJSON, ProducerRecord
from profiles.core.updates import MergedUpdate
from tests.fakes import NOW_MS, SOURCE, record_of

# Characters that JSON and the fields allow: no surrogates, no controls.
CHARACTERS = st.characters(exclude_categories=["Cs", "Cc"])


def text(most: int) -> st.SearchStrategy[str]:
    return st.text(CHARACTERS, min_size=1, max_size=most)


VALID = {
    "FirstName": text(100),
    "LastName": text(100),
    "DateOfBirth": st.builds(
        lambda day, length: day.isoformat()[:length],
        st.dates(max_value=date(2025, 12, 31)),
        st.sampled_from([4, 7, 10]),
    ),
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


fast_path = serializers.parse_at_once
exact_path = serializers._parse_exactly


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
    update = MergedUpdate(str(body["PatientId"]), fields, SOURCE, 0, NOW_MS)
    assert serializers.decode(record, 1) == update


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


@pytest.mark.parametrize("born", ["1984", "1984-02", "1984-02-29", "0001", "1899-12"])
def test_a_date_of_birth_is_a_year_a_month_or_a_day(born):
    update = parse({"PatientId": "1", "DateOfBirth": born})
    assert json.loads(update.value)["DateOfBirth"] == born


def test_a_date_is_what_the_calendar_has():
    texts = [f"{year:04}-{month:02}" for year in (0, 1, 1900) for month in range(14)]
    days = [f"{month}-{day:02}" for month in texts for day in range(33)]
    for text in [*texts, *days]:
        whole = text if len(text) == 10 else f"{text}-01"
        try:
            msgspec.convert(whole, date)
        except msgspec.ValidationError:
            assert serializers.date_of(text) is None
        else:
            assert serializers.date_of(text) == text


@pytest.fixture
def new_year(monkeypatch):
    """It is 10:30 on the last day of 2030 in UTC: 2031 has begun in the first zone."""
    moment = datetime(2030, 12, 31, 10, 30, tzinfo=UTC)
    clock = type("Clock", (), {"now": staticmethod(moment.astimezone)})
    monkeypatch.setattr(serializers, "datetime", clock)


def born_on(text: str) -> bytes:
    return json.dumps({"PatientId": "1", "DateOfBirth": text}).encode()


@pytest.mark.parametrize("born", ["2031-01-01", "2031-01", "2031", "2030-12-31"])
def test_a_date_of_birth_may_be_today_in_any_time_zone(new_year, born):
    update = serializers.parse(born_on(born))
    assert serializers.parse_array(b"[" + born_on(born) + b"]", most=1) == [update]


@pytest.mark.parametrize("born", ["2031-01-02", "2031-02", "2032", "9999-12-31"])
def test_a_posted_date_of_birth_is_not_in_the_future(new_year, born):
    assert serializers.parse_array(b"[" + born_on(born) + b"]", most=1) is None
    with pytest.raises(ValidationError) as refused:
        serializers.parse(born_on(born))
    assert refused.value.detail == {"DateOfBirth": ["In the future."]}


def test_a_record_is_an_update_whatever_the_clock_says():
    record = record_of(b'{"PatientId":"1","DateOfBirth":"9999-12-31"}')
    assert serializers.decode(record, 1).fields == {"DateOfBirth": "9999-12-31"}


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
        "1984-13",
        "1984-00",
        "1984-1",
        "984",
        "0000",
        "1984-01-",
        "1984W01",
        "",
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


@pytest.mark.parametrize(
    ("posted", "meant"),
    [
        ("PatientID", "PatientId"),
        ("patient_id", "PatientId"),
        ("firstname", "FirstName"),
        ("E-Mail", "Email"),
        ("Adress", "Address"),
        ("date_of_birth", "DateOfBirth"),
    ],
)
def test_an_unknown_field_says_which_one_it_may_have_meant(posted, meant):
    with pytest.raises(ValidationError) as refused:
        parse({"PatientId": "1", posted: "x"})
    says = f"Unknown field. Did you mean {meant}?"
    assert refused.value.detail == {posted: [says]}


@pytest.mark.parametrize("name", ["Shoe", "", "x" * 60_000, "FirstName" * 4])
def test_an_unknown_field_that_is_like_no_other_is_just_unknown(name):
    with pytest.raises(ValidationError) as refused:
        parse({"PatientId": "1", name: "x"})
    assert refused.value.detail == {name: ["Unknown field."]}


def test_of_many_unknown_fields_only_the_first_are_compared():
    names = [f"Phone{number}" for number in range(20)]
    with pytest.raises(ValidationError) as refused:
        parse({"PatientId": "1", **dict.fromkeys(names, "x")})
    named: Any = refused.value.detail
    guessed = [name for name in names if "Did you mean Phone?" in named[name][0]]
    assert guessed == names[: serializers.MOST_GUESSED]


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
    {"PatientId": "1", "DateOfBirth": "1984"},
    {"PatientId": 0, "DateOfBirth": "1984-02", "Sex": None},
    {"PatientId": "ª", "Address": "Straße nº 5\nMünchen\r\n", "LastName": "«a\\b»"},
]


@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("body", EVERYDAY, ids=repr)
def test_the_fast_path_accepts_what_clients_send_every_day(body, escaped):
    text = json.dumps(body, ensure_ascii=escaped, indent=1).encode()
    fast = fast_path(text)
    assert fast == exact_path(text)
    array = b"[ " + text + b",\n" + text + b"]\n"
    assert serializers.parse_array(array, most=2) == [fast, fast]
    line = text.replace(b"\n", b"")
    assert serializers.parse_lines(line + b"\r\n" + line, most=2) == [fast, fast]


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
    | st.sampled_from(["1984", "1984-02", "1984-13", "0000", "3000-01-01"])
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
def test_the_fast_path_accepts_an_update_only_as_the_exact_path_does(text):
    fast = fast_path(text)
    assert fast is None or fast == exact_path(text)


@given(st.lists(TEXTS, max_size=3))
def test_an_array_is_accepted_at_once_only_as_each_of_its_elements_is(texts):
    fast = serializers.parse_array(b"[" + b", ".join(texts) + b"]", most=3)
    assert fast is None or fast == [serializers.parse(text) for text in texts]


def parse_each_line(text: bytes) -> list[ProducerRecord]:
    return [serializers.parse(each) for each in text.split(b"\n") if each.strip()]


LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n ", b" ", b"", b",", b"\x0c"])


@given(st.lists(TEXTS, max_size=4), st.lists(LINE_ENDS, min_size=6, max_size=6))
def test_lines_are_accepted_at_once_only_as_each_line_is(texts, ends):
    first, *others = ends
    text = first + b"".join(map(bytes.__add__, texts, others))
    fast = serializers.parse_lines(text, most=4)
    assert fast is None or fast == parse_each_line(text)


@pytest.mark.parametrize(
    "text",
    [
        b'{"PatientId":"1"} {"PatientId":"2"}',
        b'{"PatientId":"1"}{"PatientId":"2"}\n{"PatientId":"3"\n}',
        b'{"PatientId":\n"1"}',
        b'{"PatientId":"1"}\n\n{"PatientId":"2"}{"PatientId":"3"}',
        b"",
    ],
    ids=repr,
)
def test_what_is_not_one_update_a_line_takes_the_exact_path(text):
    assert serializers.parse_lines(text, most=3) is None


@pytest.mark.parametrize("text", ['{"PatientId":"."}', '{"PatientId":"a\\u0085"}', "1"])
def test_one_element_for_the_exact_path_sends_its_whole_array_there(text):
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
def test_what_is_written_in_an_odd_way_is_taken_as_the_exact_path_takes_it(members):
    def either_way(read):
        try:
            return read(f"{{{members}}}".encode())
        except (NotStrictJSON, ValidationError) as refusal:
            return str(refusal)

    assert either_way(serializers.parse) == either_way(exact_path)


@pytest.mark.parametrize("read", [serializers.parse_array, serializers.parse_lines])
def test_more_than_the_most_are_not_decoded(read):
    text = b'{"PatientId":"1"}\n{"PatientId":"2"}'
    if read is serializers.parse_array:
        text = b"[" + text.replace(b"\n", b",") + b"]"
    assert len(read(text, most=2)) == 2
    assert read(text, most=1) is None


PLAIN = [
    '{"PatientId":"1","FirstName":"Zoë","DateOfBirth":"2024-02-29","Sex":null}',
    '{"PatientId":12,"Address":"nº 5\\nBerlin","IsPregnant":true,"Phone":"a\\\\"}',
]


@pytest.mark.parametrize("cut", [0, 1])
@pytest.mark.parametrize("sound", [text.encode() for text in PLAIN])
def test_with_any_other_byte_the_fast_path_accepts_only_as_the_exact_path_does(
    sound, cut
):
    for at, byte in product(range(len(sound)), range(256)):
        text = sound[:at] + bytes([byte]) + sound[at + cut :]
        fast = fast_path(text)
        assert fast is None or fast == exact_path(text)
        array = b"[" + text + b"," + sound + b"]"
        fast_array = serializers.parse_array(array, most=3)
        assert fast_array is None or fast_array == [
            exact_path(each) for each in records.split(array, most=3)
        ]
        lines = text + b"\n" + sound
        fast_lines = serializers.parse_lines(lines, most=3)
        assert fast_lines is None or fast_lines == parse_each_line(lines)
