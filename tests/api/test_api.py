"""The API: what POST and GET /patientprofile answer, and what reaches the topic."""

from __future__ import annotations

import gc
import json
import logging
import math
import weakref
from typing import Any
from urllib.parse import unquote

import pytest
from django.http import HttpResponse
from django.test import Client, RequestFactory
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from profiles.api import bodies, posting, views
from profiles.core import records, serializers
from profiles.core.records import ProducerRecord
from profiles.core.updates import Receipt, Source
from profiles.dynamodb.writer import TableWriter
from profiles.kafka.producer import NotAcknowledged, Verdict
from profiles.kafka.topics import KafkaUnavailable, TopicMissing, WrongTopic
from profiles.runtime.gates import Budget
from tests.fakes import OURS, EitherWay, update_at

JSON = "application/json"

pytestmark = pytest.mark.usefixtures("either_way")


class FakePublisher(EitherWay):
    """Remembers what it is to publish."""

    def __init__(self) -> None:
        self.published: list[ProducerRecord] = []
        self.failure: Exception | None = None

    def publish_all(self, updates: Any, headers: Any = ()) -> list[Verdict]:
        if self.failure is not None:
            raise self.failure
        self.published += updates
        return [Receipt(Source("topic-1", 3), 41 + n) for n in range(len(updates))]

    @property
    def values(self) -> list[bytes]:
        return [update.value for update in self.published]


@pytest.fixture
def publisher(monkeypatch):
    fake = FakePublisher()
    monkeypatch.setattr(posting, "publisher", lambda: fake)
    return fake


@pytest.fixture
def post(publisher):
    """Posts a body: bytes as they are, anything else as JSON."""
    client = Client(raise_request_exception=False)

    def post(body: object, content_type: str = JSON, **options: Any):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return client.post("/patientprofile", raw, content_type, **options)

    return post


def problem(response, status: int) -> Any:
    """The problem document of a response that is one, with this status."""
    assert response.status_code == status
    assert response["Content-Type"] == "application/problem+json"
    body = json.loads(response.content)
    assert body["status"] == status
    assert body.keys() >= {"type", "title", "detail"}
    return body


# Accepted


def test_an_update_is_accepted_with_its_receipt(post, publisher):
    response = post({"PatientId": "1", "FirstName": "John", "IsPregnant": "False"})
    assert response.status_code == 202
    assert response.json() == {
        "PatientId": "1",
        "Partition": 3,
        "Offset": 41,
        "Receipt": "topic-1.3.41",
    }
    value = b'{"PatientId":"1","FirstName":"John","IsPregnant":"False"}'
    assert publisher.published == [ProducerRecord("1", value)]


@pytest.mark.parametrize(
    "content_type",
    [JSON, "application/json; charset=utf-8", "Application/JSON"],
)
def test_json_is_named_in_many_ways(post, content_type):
    assert post({"PatientId": "1"}, content_type).status_code == 202


def test_null_is_handed_on_apart_from_absent(post, publisher):
    post({"PatientId": "1", "Sex": None})
    post({"PatientId": "1"})
    assert publisher.values == [
        b'{"PatientId":"1","Sex":null}',
        b'{"PatientId":"1"}',
    ]


def test_an_integer_patient_id_is_its_string(post, publisher):
    response = post({"PatientId": 7})
    assert response.json()["PatientId"] == "7"
    assert response["Location"] == "/patientprofile/7"
    assert publisher.published == [ProducerRecord("7", b'{"PatientId":"7"}')]


@pytest.mark.parametrize(
    "patient_id",
    ["1", "a/b", "/", "?x=1", "#", "a b", " ", "100%", "%2F", "é", "\N{GRINNING FACE}"],
)
def test_the_location_leads_to_the_profile(post, dynamodb, patient_id):
    location = post({"PatientId": patient_id})["Location"]
    assert location.isascii()
    assert location.count("/") == 2
    assert unquote(location) == f"/patientprofile/{patient_id}"
    TableWriter(dynamodb, "patient-profile").apply([update_at(0, patient_id)], OURS)
    assert Client().get(location).json()["PatientId"] == patient_id


@pytest.mark.parametrize("body", [b'{"PatientId": "1"}', b'[{"PatientId": "1"}]', b"{"])
def test_a_request_and_its_body_are_gone_with_the_answer(publisher, body):
    """Not when the collector comes: until then there would be thousands of them."""
    request = RequestFactory().post("/patientprofile", body, JSON)
    there = weakref.ref(request)
    answer = views.lane(lambda _: HttpResponse())
    gc.disable()
    try:
        answer(request)
        del request
        assert there() is None
    finally:
        gc.enable()


# Not accepted


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"FirstName": "John"}, ["PatientId"]),
        ({"PatientId": "1", "Shoe": "44"}, ["Shoe"]),
        ({"PatientId": "1", "FirstName": 5, "Sex": "x"}, ["FirstName", "Sex"]),
        ({"PatientId": None}, ["PatientId"]),
        ({}, ["PatientId"]),
        ("1", ["non_field_errors"]),
        (1, ["non_field_errors"]),
        (True, ["non_field_errors"]),
        (None, ["non_field_errors"]),
    ],
    ids=repr,
)
def test_a_profile_that_is_not_valid_is_told_what_is_wrong(
    post, publisher, body, named
):
    assert problem(post(body), 400)["errors"].keys() == set(named)
    assert publisher.published == []


UNREADABLE = {
    "half an object": b'{"PatientId": "1"',
    "NaN": b'{"PatientId": NaN}',
    "a duplicate key": b'{"PatientId": "1", "PatientId": "2"}',
    "a lone surrogate": rb'{"PatientId": "\ud800"}',
    "no UTF-8": b'{"PatientId": "\xff"}',
    "a byte order mark further in": b'\xef\xbb\xbf\xef\xbb\xbf{"PatientId": "1"}',
    "30,000 brackets": b"[" * 30_000,
    "30,000 pairs": b"[" * 30_000 + b"]" * 30_000,
    "5,000 digits": b'{"PatientId": ' + b"9" * 5000 + b"}",
    "white space": b"   ",
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_unreadable_json_is_a_problem_that_says_why(post, publisher, body):
    assert "not valid JSON" in problem(post(body), 400)["detail"]
    assert publisher.published == []


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"PatientId": "1"}', JSON),
        (b'[{"PatientId": "1"}]', JSON),
        (b'{"PatientId": "1"}\n', "application/x-ndjson"),
    ],
)
def test_a_byte_order_mark_is_skipped(post, publisher, body, content_type):
    assert post(b"\xef\xbb\xbf" + body, content_type).status_code == 202
    assert [update.patient_id for update in publisher.published] == ["1"]


def test_an_unknown_field_says_what_it_may_have_meant(post):
    errors = problem(post(b'{"PatientID": "1"}'), 400)["errors"]
    assert errors["PatientID"] == ["Unknown field. Did you mean PatientId?"]


def test_an_empty_body_is_no_json(post):
    assert "not valid JSON" in problem(post(b""), 400)["detail"]


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "application/xml", "garbage"],
)
def test_another_content_type_is_415(post, content_type):
    problem(post(b'{"PatientId": "1"}', content_type), 415)


def test_a_multipart_form_is_415(post):
    problem(post(b"--x--", "multipart/form-data; boundary=x"), 415)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_another_method_is_405_and_the_allowed_are_named(method):
    response = Client().generic(method, "/patientprofile", b"{}", JSON)
    problem(response, 405)
    assert "POST" in response["Allow"]


def test_a_profile_itself_is_only_read():
    response = Client().put("/patientprofile/1", b"{}", JSON)
    problem(response, 405)
    assert "GET" in response["Allow"]


def test_what_can_not_be_written_as_asked_is_406(post, publisher):
    problem(post({"PatientId": "1"}, headers={"accept": "text/html"}), 406)
    assert publisher.published == []


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/*;q=0.8"])
def test_json_is_answered_to_whoever_takes_it(post, accept):
    assert post({"PatientId": "1"}, headers={"accept": accept}).status_code == 202


def padded(size: int) -> bytes:
    body = b'{"PatientId":"1"}'
    return body + b" " * (size - len(body))


def test_a_body_of_just_the_limit_is_read(post):
    assert post(padded(65_536)).status_code == 202


@pytest.mark.parametrize("size", [65_537, 10_000_000])
def test_a_body_over_the_limit_is_413(post, publisher, size):
    problem(post(padded(size)), 413)
    assert publisher.published == []


def test_an_announced_length_over_the_limit_is_413_before_a_byte_is_read(post):
    problem(post(b"{}", CONTENT_LENGTH="10000000"), 413)


CHUNKED: dict[str, Any] = {
    "CONTENT_LENGTH": "",
    "headers": {"transfer-encoding": "chunked"},
}


def test_a_chunked_body_is_read_by_the_front_and_411_without_it(post, way):
    response = post({"PatientId": "1"}, **CHUNKED)
    if way == "front":
        assert response.status_code == 202
    else:
        problem(response, 411)


def test_a_chunked_body_over_the_limit_is_refused(post, way, publisher):
    problem(post(padded(10_000_000), **CHUNKED), 413 if way == "front" else 411)
    assert publisher.published == []


@pytest.mark.parametrize("length", ["-1", "abc", "1.5", "²", "9" * 5000])
def test_a_content_length_that_is_no_number_is_the_clients_fault(post, length):
    assert 400 <= post(b"{}", CONTENT_LENGTH=length).status_code < 500


# Kafka is away


@pytest.mark.parametrize(
    "failure", [NotAcknowledged, KafkaUnavailable, TopicMissing, WrongTopic]
)
def test_an_update_that_kafka_does_not_take_is_503_and_may_be_sent_again(
    post, publisher, failure
):
    publisher.failure = failure("Kafka is away")
    response = post({"PatientId": "1"})
    assert "Kafka is away" in problem(response, 503)["detail"]
    assert int(response["Retry-After"]) >= 1


def test_a_fault_of_our_own_is_a_problem_that_tells_nothing(post, publisher):
    publisher.failure = RuntimeError("Secret")
    assert "Secret" not in str(problem(post({"PatientId": "1"}), 500))


# Garbage

ONE_CLIENT = hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=[]), max_size=140),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
# What a server can hand on: WSGI's header values are Latin-1.
HEADERS = st.text(
    st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=40
)
NAMES = st.sampled_from(sorted(serializers.PatientProfile().fields)) | st.text()


@ONE_CLIENT
@given(st.binary() | st.binary().map(lambda end: b'{"PatientId":"1",' + end))
def test_no_bytes_are_our_fault(post, body):
    assert post(body).status_code in (202, 400)


@ONE_CLIENT
@given(st.dictionaries(NAMES, VALUES, max_size=4) | VALUES)
def test_no_json_is_our_fault(post, body):
    assert post(body).status_code in (202, 400)


@ONE_CLIENT
@given(HEADERS)
def test_no_content_type_is_our_fault(post, content_type):
    assert post({"PatientId": "1"}, content_type).status_code in (202, 400, 415)


@ONE_CLIENT
@given(HEADERS)
def test_no_accept_header_is_our_fault(post, accept):
    response = post({"PatientId": "1"}, headers={"accept": accept})
    assert response.status_code in (202, 406)


# Silence


@pytest.mark.parametrize(
    "body",
    [
        {"PatientId": "1", "FirstName": "Secret"},
        {"PatientId": "1", "FirstName": "Secret", "Sex": "Secret"},
        {"PatientId": "1", "Email": "Secret", "DateOfBirth": "Secret"},
        {"PatientId": "1", "FirstName": ["Secret"], "Phone": {"Secret": 1}},
        ["Secret"],
        "Secret",
        b'{"PatientId": "1", "FirstName": "Secret\xff',
        b'{"PatientId": "1", "FirstName": "Secret',
        b'{"PatientId": Secret}',
    ],
    ids=repr,
)
@pytest.mark.parametrize("failure", [None, NotAcknowledged("away"), RuntimeError("x")])
def test_neither_answer_nor_log_tells_a_posted_value(
    post, publisher, caplog, capfd, body, failure
):
    caplog.set_level(logging.DEBUG)
    publisher.failure = failure
    response = post(body)
    output = capfd.readouterr()
    told = (
        f"{response.content!r}{response.headers}{caplog.text}{output.out}{output.err}"
    )
    assert "Secret" not in told


# Reading


def test_a_stored_profile_is_read(dynamodb):
    update = update_at(5, FirstName="John")
    TableWriter(dynamodb, "patient-profile").apply([update], OURS)
    assert Client().get("/patientprofile/1").json() == {
        "PatientId": "1",
        "FirstName": "John",
        "UpdatedAt": "2023-11-14T22:13:20.005+00:00",
    }


def test_an_unknown_patient_is_404(dynamodb):
    problem(Client().get("/patientprofile/nobody"), 404)


def test_an_id_longer_than_any_is_404(dynamodb):
    problem(Client().get("/patientprofile/" + "x" * 5000), 404)


def test_reading_without_dynamodb_is_503(settings):
    from profiles.dynamodb import reader

    settings.DYNAMODB_ENDPOINT_URL = "http://127.0.0.1:1"
    reader.profiles.cache_clear()
    response = Client().get("/patientprofile/1")
    problem(response, 503)
    assert response["Retry-After"]
    reader.profiles.cache_clear()


# Many at a time

NDJSON = "application/x-ndjson"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'[{"PatientId": "1"}, {"PatientId": "2", "Sex": null}]', JSON),
        (b' \n[{"PatientId": "1"}, {"PatientId": "2", "Sex": null}]\n', JSON),
        (b'{"PatientId": "1"}\n{"PatientId": "2", "Sex": null}', NDJSON),
        (b'{"PatientId": "1"}\r\n\n{"PatientId": "2", "Sex": null}\n', NDJSON),
    ],
    ids=repr,
)
def test_many_updates_get_a_receipt_each_in_their_order(
    post, publisher, body, content_type
):
    answer = post(body, content_type)
    assert answer.status_code == 202
    assert [each["PatientId"] for each in answer.json()] == ["1", "2"]
    assert [each["Receipt"] for each in answer.json()] == [
        "topic-1.3.41",
        "topic-1.3.42",
    ]
    assert publisher.values == [
        b'{"PatientId":"1"}',
        b'{"PatientId":"2","Sex":null}',
    ]


def test_one_bad_element_and_nothing_is_produced(post, publisher):
    body = [{"PatientId": "1"}, {"PatientId": "2", "Sex": "x"}, 7]
    errors = problem(post(body), 400)["errors"]
    assert [(each["index"], [*each["errors"]]) for each in errors] == [
        (1, ["Sex"]),
        (2, ["non_field_errors"]),
    ]
    assert publisher.published == []


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"PatientId": "1"}\n{"PatientId"', NDJSON),
        (b'[{"PatientId": "1"}, {"PatientId": "2", "PatientId": "2"}]', JSON),
    ],
    ids=repr,
)
def test_an_element_that_is_no_strict_json_is_named_by_its_index(
    post, publisher, body, content_type
):
    detail = problem(post(body, content_type), 400)["detail"]
    assert detail.startswith("The update at index 1 is not valid JSON: ")
    assert publisher.published == []


@pytest.mark.parametrize(
    "body", [b'[{"PatientId": "1"},]', b'[{"PatientId": "1"}', b"[" * 60_000]
)
def test_an_array_that_is_no_json_is_told_as_the_body(post, publisher, body):
    detail = problem(post(body), 400)["detail"]
    assert detail.startswith("The body is not valid JSON: ")
    assert publisher.published == []


def test_only_the_first_hundred_bad_elements_are_told(post):
    answer = problem(post([7] * 150), 400)
    assert (len(answer["errors"]), answer["detail"][:3]) == (100, "150")


@pytest.mark.parametrize("content_type", [JSON, NDJSON])
def test_no_update_at_all_is_a_mistake(post, content_type):
    body = b"[]" if content_type == JSON else b"\n"
    assert "no update" in problem(post(body, content_type), 400)["detail"]


def test_ten_thousand_updates_pass_and_one_more_does_not(post, publisher):
    update = b'{"PatientId":"1"}'
    assert post(b"[" + b",".join([update] * 10_000) + b"]").status_code == 202
    assert problem(post(b"\n".join([update] * 10_001), NDJSON), 413)
    assert problem(post(b"[" + b",".join([update] * 10_001) + b"]"), 413)
    assert len(publisher.published) == 10_000


def test_what_kafka_refuses_is_told_beside_what_it_took(post, publisher, monkeypatch):
    taken = Receipt(Source("topic-1", 3), 41)
    verdicts = [taken, NotAcknowledged("Kafka did not acknowledge"), taken]
    monkeypatch.setattr(publisher, "publish_all", lambda updates, headers: verdicts)
    answer = post([{"PatientId": "1"}, {"PatientId": "2"}, {"PatientId": "1"}])
    assert answer.headers["Retry-After"] == "1"
    told = problem(answer, 503)["updates"]
    assert ["Receipt" in each for each in told] == [True, False, True]
    assert told[1]["Refused"] == "Kafka did not acknowledge"


LARGE = b'[{"PatientId": "1"}' + b" " * records.MAX_VALUE_BYTES + b"]"


@pytest.fixture
def room(monkeypatch):
    """Memory for one large body."""
    monkeypatch.setattr(bodies, "large", Budget(len(LARGE)))
    return bodies.large


def test_a_large_body_is_refused_at_once_if_nothing_moves(post, room):
    with room.share(1):
        room._moved_at = -math.inf
        answer = post(LARGE)
        assert "Too many large requests" in problem(answer, 503)["detail"]
        assert answer["Retry-After"] == "1"
        assert post([{"PatientId": "1"}]).status_code == 202
        assert post(padded(65_536)).status_code == 202


def test_a_large_body_keeps_its_room_until_it_is_answered(
    post, publisher, monkeypatch, room
):
    def publish_all(updates, headers):
        assert not room.take(1)
        return FakePublisher().publish_all(updates)

    monkeypatch.setattr(publisher, "publish_all", publish_all)
    assert post(LARGE).status_code == 202
    assert room._used == 0


def test_a_large_body_that_is_refused_gives_its_room_back(post, room):
    for _ in range(2):
        assert post(LARGE[1:]).status_code == 413
        assert post(LARGE[:-1]).status_code == 400
    assert post(LARGE).status_code == 202
    assert room._used == 0


def test_an_object_of_its_own_is_held_to_the_record_limit(post):
    spaces = b" " * records.MAX_VALUE_BYTES
    assert problem(post(b'{"PatientId": "1"}' + spaces), 413)
    assert post(b'[{"PatientId": "1"}]' + spaces).status_code == 202
