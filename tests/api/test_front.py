"""The front: it answers as Django does, and no client holds a thread."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import product
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from profiles.access import audit_trail, throttles, tokens
from profiles.api import arrival, bodies, posting
from profiles.api import front as the_front
from profiles.api.front import Front
from profiles.core import serializers
from profiles.core.updates import Receipt, Source
from profiles.kafka import producer
from profiles.kafka.producer import NotAcknowledged, Publisher
from profiles.kafka.topics import KafkaUnavailable
from profiles.runtime.gates import Budget
from tests import front, identity
from tests.fakes import TOPIC, EitherWay, FakeKafkaProducer

JSON = "application/json"


class FakePublisher(EitherWay):
    """Takes each update, but those of the refused patient."""

    def publish_all(self, updates: Any, headers: Any = ()) -> Any:
        return [
            NotAcknowledged("no") if update.patient_id == "refused" else RECEIPT
            for update in updates
        ]


RECEIPT = Receipt(Source("topic-1", 3), 41)


@pytest.fixture(autouse=True)
def publisher(monkeypatch):
    monkeypatch.setattr(posting, "publisher", FakePublisher)


@pytest.fixture
def ways(monkeypatch):
    """A client of Django alone, and one of the front before it."""
    alone = Client(raise_request_exception=False)
    with monkeypatch.context() as patch:
        patch.setattr("django.test.client.ClientHandler", front.Handler)
        return alone, Client(raise_request_exception=False)


@pytest.fixture
def production(settings):
    """Closed doors, a local key, and TLS by a proxy."""
    settings.DEVELOPMENT = False
    settings.TRUST_PROXY = True
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_HSTS_SECONDS = 60
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    settings.JWT_ISSUER, settings.JWT_AUDIENCE = identity.ISSUER, identity.AUDIENCE
    settings.JWT_LOCAL_KEY = identity.LOCAL_KEY
    tokens.verifier.cache_clear()
    yield
    tokens.verifier.cache_clear()


# Equal answers

OF_ITS_OWN = ("x-request-id", "content-length", "server")
"""Of the response, these differ: the id is new, and a server counts the bytes itself."""


def seen(response: Any, capfd: Any) -> tuple[object, ...]:
    """What a client and the audit trail see of a request."""
    headers = {
        name.lower(): value
        for name, value in response.items()
        if name.lower() not in OF_ITS_OWN
    }
    trail = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    for line in trail:
        del line["at"], line["request"]
    return response.status_code, headers, response.content, trail


def assert_equal(ways: Any, capfd: Any, body: bytes, **head: Any) -> None:
    capfd.readouterr()
    alone, through = (
        seen(client.post("/patientprofile", body, **head), capfd) for client in ways
    )
    assert through == alone


UPDATE = b'{"PatientId":"1","FirstName":"John"}'
BODIES = [
    UPDATE,
    b"",
    b" ",
    b"{",
    b"[]",
    b"null",
    b"[" + UPDATE + b"]",
    b"[" + UPDATE + b',{"PatientId":"refused"}]',
    b"[" + UPDATE + b",7]",
    b"[" * 30_000,
    b'{"PatientId":"refused"}',
    b'{"PatientId":"1","Shoe":"44"}',
    b'{"PatientId":"1","PatientId":"2"}',
    b'{"PatientId":7,"IsPregnant":true}',
    b'{"PatientId":"\xff"}',
    b"\xef\xbb\xbf" + UPDATE,
    UPDATE + b"\n" + UPDATE,
    UPDATE + b" " * 70_000,
]
HEADS: list[dict[str, Any]] = [
    {},
    {"content_type": "application/x-ndjson"},
    {"content_type": "Application/JSON; charset=utf-8"},
    {"content_type": "text/plain"},
    {"content_type": "multipart/form-data; boundary=x"},
    {"headers": {"accept": "text/html"}},
    {"headers": {"accept": "application/json;q=0, */*"}},
    {"headers": {"accept": "text/html; x*=unknown''y"}},
    {"headers": {"host": "evil.example"}},
    {"headers": {"host": ""}},
    {"headers": {"x-forwarded-for": "10.0.0.5"}},
    {"headers": {"x-forwarded-for": "127.0.0.1, ::1"}},
    {"headers": {"authorization": "Bearer x"}},
    {"headers": {"authorization": "Basic eDp5"}},
    {"headers": {"prefer": "respond-async"}},
    {"headers": {"traceparent": "rubbish"}},
    {"headers": {"cookie": "sessionid=x; csrftoken=y"}},
    {"headers": {"expect": "100-continue"}},
    {"REMOTE_ADDR": "10.0.0.5"},
    {"REMOTE_ADDR": "::1"},
    {"REMOTE_ADDR": ""},
    {"CONTENT_LENGTH": "-1"},
    {"CONTENT_LENGTH": "abc"},
    {"CONTENT_LENGTH": "99999999"},
    {"CONTENT_LENGTH": "9" * 5000},
    {"secure": True},
]


@pytest.mark.parametrize("head", HEADS, ids=repr)
def test_the_front_answers_a_post_as_django_does(ways, capfd, head):
    for body in BODIES:
        assert_equal(ways, capfd, body, **{"content_type": JSON, **head})


@pytest.mark.parametrize(
    "proxied", [{}, {"x-forwarded-proto": "http"}, {"x-forwarded-proto": "https"}]
)
@pytest.mark.parametrize("token", ["none", "bad", "read", "write", "expired"])
def test_the_front_admits_as_django_does(ways, capfd, production, proxied, token):
    made = {
        "bad": "x",
        "read": identity.local_token(scope="profiles:read"),
        "write": identity.local_token(scope="profiles:write"),
        "expired": identity.local_token(exp=1),
    }
    bearer = {"authorization": f"Bearer {made[token]}"} if token in made else {}
    headers = {**proxied, **bearer, "x-forwarded-for": "192.0.2.7"}
    for _ in range(2):  # not known at first, and then it is
        assert_equal(ways, capfd, UPDATE, content_type=JSON, headers=headers)


def test_the_front_throttles_as_django_does(ways, capfd, monkeypatch):
    for _ in range(2):
        throttle = throttles.Throttle(1, 60.0)
        monkeypatch.setattr(throttles, "throttle", lambda made=throttle: made)
        statuses = [
            [client.post("/patientprofile", UPDATE, JSON).status_code for _ in "12"]
            for client in ways[:1]
        ]
        throttle = throttles.Throttle(1, 60.0)
        monkeypatch.setattr(throttles, "throttle", lambda made=throttle: made)
        statuses += [
            [client.post("/patientprofile", UPDATE, JSON).status_code for _ in "12"]
            for client in ways[1:]
        ]
        assert statuses == [[202, 429]] * 2


NAMES = st.sampled_from(sorted(serializers.PatientProfile().fields)) | st.text(
    max_size=9
)
VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=40)
UPDATES = st.dictionaries(NAMES, VALUES, max_size=5)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["accept", "host", "x-forwarded-for", "authorization", "x-request-id", "cookie"]
        + ["traceparent", "content-encoding", "x-forwarded-proto", "if-match", "range"]
    ),
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=30),
    max_size=3,
)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60)
    | UPDATES.map(lambda update: json.dumps(update).encode())
    | st.lists(UPDATES, max_size=3).map(lambda many: json.dumps(many).encode()),
    st.sampled_from([JSON, JSON, "application/x-ndjson", "text/html", ""]),
    HEADERS,
)
def test_no_request_is_answered_in_another_way(
    ways, capfd, body, content_type, headers
):
    assert_equal(ways, capfd, body, content_type=content_type, headers=headers)


def test_what_the_loop_can_not_tell_at_once_is_read_in_a_thread(monkeypatch):
    """A closer look may take a second, in which no probe would be answered."""
    threads = []
    read = posting.read

    def noted(body):
        threads.append(threading.current_thread().name)
        return read(body)

    monkeypatch.setattr(posting, "read", noted)
    assert asked(b"[7]")[0] == 400
    assert [name.startswith("django") for name in threads] == [True]


class Asked:
    """A client that sends what it is given, and then stalls."""

    def __init__(self, body: bytes, **head: str) -> None:
        self.chunks: list[bytes | None] = [body]
        self.ends = False
        self.sent: list[Any] = []
        environ = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": "/patientprofile",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "REMOTE_ADDR": "127.0.0.1",
            "CONTENT_TYPE": JSON,
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.url_scheme": "http",
        }
        self.scope = front.scope({**environ, **head})

    async def receive(self) -> Any:
        if not self.chunks:
            await asyncio.sleep(5)
            self.chunks.append(None)
        chunk = self.chunks.pop(0)
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": not self.ends}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])


async def serve(django: Front, *clients: Asked) -> None:
    await asyncio.gather(*(django(c.scope, c.receive, c.send) for c in clients))


def asked(body: bytes, **head: str) -> tuple[int, bytes]:
    client = Asked(body, **head)
    asyncio.run(serve(Front(front.Django(True)), client))
    return client.status, client.sent[1]["body"]


# The audit trail


def test_the_lines_of_a_turn_are_written_together_before_its_answers(monkeypatch):
    order: list[str] = []

    class Noted(Asked):
        async def send(self, message: Any) -> None:
            order.append("answer")
            await super().send(message)

    written: list[bytes] = []
    monkeypatch.setattr(audit_trail, "_write", written.append)

    def is_writable() -> bool:
        order.append("write")
        return True

    monkeypatch.setattr(audit_trail, "_is_writable", is_writable)
    clients = [Noted(UPDATE) for _ in range(20)]
    asyncio.run(serve(Front(front.Django(True)), *clients))
    assert order == ["write"] + ["answer"] * 40
    assert len(written[0].splitlines()) == 20


def test_an_audit_trail_that_nobody_reads_does_not_stop_the_loop(monkeypatch):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)

    async def answered() -> list[int]:
        django = Front(front.Django(True))
        waiting = [asyncio.ensure_future(serve(django, client)) for client in posts]
        await asyncio.sleep(0.1)
        probe = Asked(b"", PATH_INFO="/livez", REQUEST_METHOD="GET")
        await serve(django, probe)
        assert not any(post.done() for post in waiting)
        os.read(reading, 1_000_000)
        await asyncio.gather(*waiting)
        return [probe.status, *(client.status for client in posts)]

    posts = [Asked(UPDATE) for _ in range(3)]
    later = threading.Timer(3, os.read, (reading, 1_000_000))  # else it hangs if broken
    later.start()
    with (
        os.fdopen(writing, "w") as output,
        os.fdopen(reading),
        monkeypatch.context() as patch,
    ):
        patch.setattr(sys, "stdout", output)
        assert asyncio.run(answered()) == [200, 202, 202, 202]
        later.cancel()


# Arrival


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(arrival, "GRACE_S", 0.1)


def test_a_body_that_stalls_is_408_and_others_are_answered_meanwhile(impatient):
    stalled = [Asked(b"{", CONTENT_LENGTH="50") for _ in range(100)]
    probe = Asked(b"", PATH_INFO="/livez", REQUEST_METHOD="GET", CONTENT_LENGTH="0")
    good = Asked(UPDATE)
    order: list[Asked] = []

    async def answer(django: Front, client: Asked) -> None:
        await django(client.scope, client.receive, client.send)
        order.append(client)

    async def all_of_them() -> None:
        django = Front(front.Django(True))
        clients = [*stalled, probe, good]
        await asyncio.gather(*(answer(django, client) for client in clients))

    asyncio.run(all_of_them())
    assert {client.status for client in stalled} == {408}
    assert (probe.status, good.status) == (200, 202)
    assert {*order[:2]} == {probe, good}


def test_a_body_that_is_not_complete_when_its_client_leaves_is_not_published(
    monkeypatch,
):
    published: list[Any] = []
    monkeypatch.setattr(
        FakePublisher, "publish_all", lambda self, *sent: published.append(sent)
    )
    client = Asked(UPDATE, CONTENT_LENGTH=str(len(UPDATE) + 1))
    client.chunks.append(None)
    asyncio.run(serve(Front(front.Django(True)), client))
    assert (client.status, published) == (400, [])


def test_a_body_that_is_cut_short_is_not_published():
    """As by a proxy that ends the request in mid-body: what is there may be valid."""
    client = Asked(b"[" + UPDATE + b"]", CONTENT_LENGTH="900")
    client.ends = True
    asyncio.run(serve(Front(front.Django(True)), client))
    assert client.status == 400


def test_a_large_body_takes_memory_only_once_it_arrives(impatient, monkeypatch):
    monkeypatch.setattr(bodies, "large", Budget(bodies.MANY_BYTES))
    large = b"[" + UPDATE + b" " * bodies.ONE_BYTES + b"]"
    stalled = [Asked(b"[", CONTENT_LENGTH="8000000") for _ in range(50)]
    honest = [Asked(large) for _ in range(5)]
    asyncio.run(serve(Front(front.Django(True)), *stalled, *honest))
    assert {client.status for client in honest} == {202}
    assert bodies.large._used == 0


def test_large_bodies_queue_for_memory(monkeypatch):
    monkeypatch.setattr(bodies, "large", Budget(bodies.MANY_BYTES))
    large = b"[" + UPDATE + b" " * 5_000_000 + b"]"
    clients = [Asked(large) for _ in range(8)]
    asyncio.run(serve(Front(front.Django(True)), *clients))
    assert {client.status for client in clients} == {202}
    assert bodies.large._used == 0


@pytest.mark.parametrize("head", [{"HTTP_PREFER": "wait=1"}, {}], ids=["Prefer", ""])
def test_a_large_body_takes_its_memory_once(monkeypatch, head):
    """Also where Django's view answers, which takes it under another server."""
    monkeypatch.setattr(bodies, "large", Budget(bodies.MANY_BYTES))
    large = b"[" + UPDATE + b" " * 5_000_000 + b"]"
    assert asked(large, **head)[0] == 202
    assert bodies.large._used == 0


class Trickling(Asked):
    """A client that sends two bytes at a time."""

    async def receive(self) -> Any:
        await asyncio.sleep(0)
        left = self.chunks[0] or b""
        self.chunks[0] = left[2:]
        return {"type": "http.request", "body": left[:2], "more_body": True}


def test_a_body_in_tiny_chunks_takes_no_more_memory():
    """As objects of Python, they would take twenty times as much."""
    client = Trickling(b" " * 20_000)

    async def peak() -> int:
        arriving = arrival.Arrival(arrival.environ(client.scope), client.receive)
        tracemalloc.start()
        try:
            assert len(await arriving.body()) == 20_000
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert asyncio.run(peak()) < 10 * 20_000


def test_a_form_over_its_limit_is_refused_unread(ways, db):
    form = b"x" * (bodies.FORM_BYTES + 1)
    for client in ways:
        assert client.post("/admin/login/", form, "text/plain").status_code == 413


def test_a_header_with_an_underscore_passes_for_no_other():
    head = Asked(UPDATE)
    head.scope["headers"] += [
        (b"x_forwarded_for", b"10.0.0.5"),
        (b"x_request_id", b"x"),
    ]
    asyncio.run(serve(Front(front.Django(True)), head))
    assert head.status == 202
    assert (b"x-request-id", b"x") not in head.sent[0]["headers"]


HOSTILE = 'application/json; b="' + ";" * 30_000
"""Of such a header, Django takes a second."""


@pytest.mark.parametrize("head", [HOSTILE, "application/json; charset*=unknown''x"])
def test_a_content_type_that_django_can_not_parse_is_none(monkeypatch, head):
    assert asked(UPDATE, CONTENT_TYPE=head)[0] == 415
    probe = {"PATH_INFO": "/livez", "REQUEST_METHOD": "GET", "CONTENT_TYPE": head}
    assert asked(b"", **probe)[0] == 200


def test_an_accept_that_django_can_not_parse_is_406(ways):
    for client in ways:
        head = {"accept": "text/html; x*=unknown''y"}
        answer = client.post("/patientprofile", UPDATE, JSON, headers=head)
        assert answer.status_code == 406


def test_an_accept_that_takes_long_to_parse_is_not_read(monkeypatch):
    parsed: list[str] = []

    def takes_json(accept: str) -> bool:
        parsed.append(accept)
        return True

    monkeypatch.setattr(posting, "_takes_json", takes_json)
    assert asked(UPDATE, HTTP_ACCEPT=HOSTILE)[0] == 202
    assert parsed == ["*/*"]


# Faults


def test_a_fault_is_500_and_logged_without_its_text(monkeypatch, caplog):
    async def fail(self: Any) -> bytes:
        raise RuntimeError("a value of a profile")

    monkeypatch.setattr(arrival.Arrival, "body", fail)
    status, body = asked(UPDATE)
    [record] = caplog.records
    assert (status, json.loads(body)["status"]) == (500, 500)
    assert record.exc_info is not None
    assert "a value" not in body.decode() + record.getMessage()


def test_a_request_that_waits_too_long_for_a_thread_is_503(monkeypatch):
    monkeypatch.setattr(the_front, "QUEUE_S", 0.1)
    ends = threading.Event()
    client = Asked(b"[7]")
    with ThreadPoolExecutor(1) as threads:
        threads.submit(ends.wait)
        django = Front(front.Django(True), threads)
        try:
            asyncio.run(asyncio.wait_for(serve(django, client), 5))
        finally:
            ends.set()
    assert client.status == 503
    assert django._waiting._used == 0


# Ends


class Publishing(Publisher):
    """As the product's, before a Kafka that answers, stalls or fails."""

    def __init__(self, kafka: str) -> None:
        super().__init__(self._producer, self._topic_of_test, lambda *_: True, 4)
        self.kafka = kafka
        self.fake = FakeKafkaProducer(acks=kafka != "stalls")

    def _producer(self) -> Any:
        if self.kafka == "has no client":
            raise KafkaException(KafkaError(KafkaError._FAIL))
        return self.fake

    def _topic_of_test(self) -> Any:
        if self.kafka == "does not answer":
            raise KafkaUnavailable("Kafka does not answer")
        if self.kafka == "is a fault":
            raise RuntimeError
        return TOPIC


LARGE = b"[" + UPDATE + b" " * bodies.ONE_BYTES + b"]"
INVALID = LARGE[:-1] + b",7]"
SENT: dict[str, tuple[int, list[bytes | None]]] = {
    "nothing": (len(UPDATE), []),
    "half of a small body": (len(UPDATE), [UPDATE[:9]]),
    "half of a large body": (len(LARGE), [LARGE[:-1]]),
    "half of a large body and leaves": (len(LARGE), [LARGE[:-1], None]),
    "a small body": (len(UPDATE), [UPDATE]),
    "a large body": (len(LARGE), [LARGE]),
    "an invalid body": (len(INVALID), [INVALID]),
}
WHOLE = [part for part in SENT if part.startswith("a")]
PARTIAL = sorted(SENT.keys() - WHOLE)
KAFKAS = ["answers", "stalls", "has no client", "does not answer", "is a fault"]


@pytest.mark.parametrize("head", [{}, {"HTTP_PREFER": "x"}], ids=["front", "Django"])
@pytest.mark.parametrize("is_cancelled", [False, True], ids=["", "is cancelled"])
@pytest.mark.parametrize(
    ("sent", "kafka"),
    [(part, "answers") for part in PARTIAL] + [*product(WHOLE, KAFKAS)],
)
def test_whatever_ends_a_request_it_gives_everything_back(
    impatient, monkeypatch, sent, kafka, is_cancelled, head
):
    monkeypatch.setattr(producer, "ANSWER_S", 0.1)
    monkeypatch.setattr(bodies, "large", Budget(bodies.MANY_BYTES))
    publisher = Publishing(kafka)
    monkeypatch.setattr(posting, "publisher", lambda: publisher)
    length, parts = SENT[sent]

    async def end(django: Front) -> None:
        client = Asked(b"", **{"CONTENT_LENGTH": str(length), **head})
        client.chunks = [*parts]
        answered = asyncio.create_task(serve(django, client))
        if is_cancelled:
            await asyncio.wait([answered], timeout=0.01)
            answered.cancel()
        await asyncio.wait([answered])

    with ThreadPoolExecutor(2) as threads:
        django = Front(front.Django(True), threads)
        asyncio.run(end(django))
    if publisher._session is not None:
        publisher._session.retire()
    budgets = (bodies.large, publisher._budget, django._waiting)
    assert [(budget._used, [*budget._queue]) for budget in budgets] == [(0, [])] * 3
