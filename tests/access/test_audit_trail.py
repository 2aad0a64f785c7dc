"""The audit trail: every view and every accepted update leaves its line."""

from __future__ import annotations

import asyncio
import json
import os
import select
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.http import HttpRequest
from django.test import Client

from profiles.access import audit_trail, callers
from profiles.api import posting
from profiles.core import items
from profiles.core.updates import Receipt, Source
from profiles.dynamodb import reader
from profiles.dynamodb.writer import TableWriter
from profiles.kafka import topics
from profiles.kafka.producer import NotAcknowledged
from tests.fakes import OURS, TOPIC, EitherWay, update_at

JSON = "application/json"

pytestmark = pytest.mark.usefixtures("either_way")


class FakePublisher(EitherWay):
    """Takes each update, but those of the refused patients."""

    def __init__(self) -> None:
        self.refused: set[str] = set()

    def publish_all(self, updates, *_):
        receipt = Receipt(Source("topic-1", 3), 41)
        return [
            NotAcknowledged("no") if update.patient_id in self.refused else receipt
            for update in updates
        ]


@pytest.fixture
def publisher(monkeypatch):
    fake = FakePublisher()
    monkeypatch.setattr(posting, "publisher", lambda: fake)
    return fake


@pytest.fixture
def lines(capfd):
    """The lines that were left since the last look; there is nothing else on it."""
    capfd.readouterr()
    return lambda: [
        json.loads(line) for line in capfd.readouterr().out.split("\n")[:-1]
    ]


def post(body: object, **options):
    return Client().post("/patientprofile", json.dumps(body), JSON, **options)


def store(dynamodb, *patients: str) -> None:
    table = TableWriter(dynamodb, "patient-profile")
    for offset, patient in enumerate(patients):
        table.apply([update_at(offset, patient)], OURS)


def test_an_accepted_update_leaves_who_what_whom_when_and_where(publisher, lines):
    post({"PatientId": "7", "FirstName": "John"}, headers={"x-request-id": "r-1"})
    [line] = lines()
    at = datetime.fromisoformat(line.pop("at"))
    assert timedelta(0) <= datetime.now(UTC) - at < timedelta(minutes=1)
    assert line == {
        "audit": "update",
        "who": "open",
        "from": "127.0.0.1",
        "request": "r-1",
        "patients": ["7"],
    }


@contextmanager
def piped(monkeypatch):
    """Standard output is a pipe; yields its other end."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with (
        open(reading, "rb", 0) as other_end,
        open(writing, "w") as output,
        monkeypatch.context() as patch,
    ):
        patch.setattr(sys, "stdout", output)
        yield other_end


def test_the_lines_are_out_before_the_answer(publisher, monkeypatch):
    """In a buffer they would be lost with the process."""
    with piped(monkeypatch) as output:
        assert post({"PatientId": "7"}).status_code == 202
        assert json.loads(output.read(4096) or b"")["patients"] == ["7"]


def admitted(request_id: str = "r-1") -> HttpRequest:
    """A request as the audit trail gets it."""
    request = HttpRequest()
    request.META = {"REMOTE_ADDR": "192.0.2.7", "HTTP_X_REQUEST_ID": request_id}
    request.caller = callers.OPEN  # type: ignore[attr-defined]
    return request


MANY = [f"patient-{number}" for number in range(10_000)]
"""More than a pipe holds."""


def test_what_a_slow_reader_gets_late_is_written_in_pieces_too(monkeypatch):
    """A longer write would be torn where another process writes to the same pipe."""
    sizes: list[int] = []
    write = os.write

    def noted(output: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(output, data)

    async def read_to_the_end(output: Any) -> bytes:
        trail = audit_trail.Turns(asyncio.get_running_loop())
        noting = asyncio.create_task(trail.note(admitted(), "update", MANY))
        read = b""
        while not noting.done():
            await asyncio.sleep(0)
            read += output.read(65536) or b""
        return read + (output.read(1_000_000) or b"")

    with piped(monkeypatch) as output, monkeypatch.context() as patch:
        patch.setattr(os, "write", noted)
        read = asyncio.run(read_to_the_end(output))
    named = [json.loads(line)["patients"] for line in read.splitlines()]
    assert sum(named, []) == MANY
    assert max(sizes) <= select.PIPE_BUF


def test_a_request_that_is_cancelled_takes_no_other_line_with_it(lines):
    async def two_requests() -> list[object]:
        trail = audit_trail.Turns(asyncio.get_running_loop())
        noting = [
            asyncio.create_task(trail.note(admitted(patient), "update", [patient]))
            for patient in ("7", "8")
        ]
        await asyncio.sleep(0)
        noting[0].cancel()
        async with asyncio.timeout(5):
            return await asyncio.gather(*noting, return_exceptions=True)

    cancelled, written = asyncio.run(two_requests())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert written is None
    assert [line["patients"] for line in lines()] == [["7"], ["8"]]


@pytest.mark.parametrize("output", ["none", "closed", "a pipe that nobody reads"])
def test_without_standard_output_no_answer_says_accepted(
    publisher, monkeypatch, output
):
    with piped(monkeypatch) as other_end, monkeypatch.context() as patch:
        if output == "none":
            patch.setattr(sys, "stdout", None)
        elif output == "closed":
            sys.stdout.close()
        else:
            other_end.close()
        client = Client(raise_request_exception=False)
        answer = client.post("/patientprofile", '{"PatientId": "7"}', JSON)
    assert answer.status_code == 500


@pytest.mark.parametrize(
    "body", [{"PatientId": "7", "Sex": "?"}, {}, [{"PatientId": "7"}, {}], "x"]
)
def test_what_was_not_accepted_leaves_none(publisher, lines, body):
    assert post(body).status_code == 400
    assert lines() == []


def test_of_many_every_accepted_patient_is_named(publisher, lines):
    publisher.refused = {"13"}
    post([{"PatientId": n} for n in range(120)])
    found = lines()
    assert [len(line["patients"]) for line in found] == [50, 50, 19]
    named = [patient for line in found for patient in line["patients"]]
    assert named == [str(n) for n in range(120) if n != 13]
    assert len({line["at"] for line in found}) == 1


def test_a_line_is_one_that_a_pipe_takes_whole(publisher, monkeypatch):
    """A longer one would be cut where two processes write to it."""
    pieces: list[bytes] = []
    monkeypatch.setattr(audit_trail, "_write", pieces.append)
    patients = [f"{n:0>3}" + "\N{GRINNING FACE}" * 125 for n in range(60)]
    post([{"PatientId": patient} for patient in patients])
    assert max(map(len, pieces)) <= select.PIPE_BUF
    assert all(piece.endswith(b"\n") for piece in pieces)
    lines = [json.loads(line) for piece in pieces for line in piece.splitlines()]
    assert [patient for line in lines for patient in line["patients"]] == patients


@pytest.mark.parametrize(
    "path", ["/patientprofile/a%2Fb", "/profiles/a%2Fb/"], ids=["api", "page"]
)
def test_a_profile_that_was_shown_leaves_its_line(dynamodb, lines, path):
    store(dynamodb, "a/b")
    assert Client().get(path).status_code == 200
    assert [(line["audit"], line["patients"]) for line in lines()] == [
        ("view", ["a/b"])
    ]


def test_a_profile_that_is_unchanged_was_shown_too(dynamodb, lines):
    store(dynamodb, "7")
    etag = Client().get("/patientprofile/7")["ETag"]
    lines()
    again = Client().get("/patientprofile/7", headers={"if-none-match": etag})
    assert again.status_code == 304
    assert lines()[0]["patients"] == ["7"]


def test_a_list_names_everyone_on_it(dynamodb, lines):
    store(dynamodb, *[f"p{n}" for n in range(60)])
    shown = Client().get("/patientprofile", {"limit": 55}).json()["Profiles"]
    found = lines()
    assert [(line["audit"], len(line["patients"])) for line in found] == [
        ("list", 50),
        ("list", 5),
    ]
    named = [patient for line in found for patient in line["patients"]]
    assert named == [profile[items.KEY] for profile in shown]


def test_a_page_of_profiles_names_everyone_on_it(dynamodb, lines):
    store(dynamodb, "a", "b")
    Client().get("/profiles/")
    [line] = lines()
    assert (line["audit"], sorted(line["patients"])) == ("list", ["a", "b"])


@pytest.mark.parametrize("path", ["/patientprofile/7", "/profiles/7/", "/profiles/"])
def test_where_there_is_no_patient_there_is_no_line(dynamodb, lines, path):
    Client().get(path)
    assert lines() == []


def test_a_waited_for_profile_is_a_view(dynamodb, publisher, lines, monkeypatch):
    item = {"PatientId": {"S": "7"}, "_fence:topic-1:3": {"N": "41"}}
    monkeypatch.setattr(reader.TableReader, "await_receipt", lambda *_: item)
    monkeypatch.setattr(topics, "watch", lambda: topics.Watch(lambda: TOPIC, 4))
    answer = post({"PatientId": "7"}, headers={"prefer": "wait=1"})
    assert answer.status_code == 200
    assert [line["audit"] for line in lines()] == ["update", "view"]


def test_no_value_and_no_line_break_of_a_client_is_in_a_line(
    publisher, lines, dynamodb
):
    evil = 'x"}\\n{"audit":"view"\u2028'
    post(
        {"PatientId": evil, "FirstName": "Canary"},
        headers={"x-request-id": 'r"\\u000a{}', "x-forwarded-for": "127.0.0.1"},
    )
    [line] = lines()
    assert line["patients"] == [evil]
    assert "Canary" not in json.dumps(line)
