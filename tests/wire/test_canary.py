"""The canary: a value that every failing path has handled appears in no output.

Real processes, in development and in production, with the faults of `tests/canary`.
Searched are their logs, their metrics, and every answer except the profile itself.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from confluent_kafka import Producer

from tests import identity, stack
from tests.engines.process import free_port
from tests.stack import Command, Stack, Web

pytestmark = pytest.mark.stack

CANARY = "Canary" + secrets.token_hex(8)
"""Stands for a value of a profile, such as a name or an address."""

KEYS = {
    "DJANGO_SECRET_KEY": "Canary-" + secrets.token_hex(40),
    "JWT_LOCAL_KEY": "Canary-" + secrets.token_hex(40),
}
PRODUCTION = {
    **KEYS,
    "DJANGO_DEBUG": "0",
    "DJANGO_ALLOWED_HOSTS": "127.0.0.1",
    "DJANGO_TRUST_PROXY": "1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "JWT_ISSUER": identity.ISSUER,
    "JWT_AUDIENCE": identity.AUDIENCE,
    "THROTTLE_RATE": "off",
}
FAULTY = {"DJANGO_SETTINGS_MODULE": "tests.canary.settings"}


MODES: dict[str, Mapping[str, str]] = {"development": {}, "production": PRODUCTION}


class Alive(Web):
    """A web process that is taken as started although its engines are away."""

    def is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/livez", timeout=5).ok
        except requests.ConnectionError:
            return False


class Output:
    """Everything that the service wrote or answered."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._answers: dict[str, str] = {}

    def answer(self, what: str, answer: requests.Response) -> int:
        """Keep an answer, its head and its body."""
        head = json.dumps(dict(answer.headers))
        number = len(self._answers)
        self._answers[f"{number} {what}"] = f"{answer.status_code} {head} {answer.text}"
        return answer.status_code

    def log(self, name: str) -> str:
        """What a process wrote."""
        return (self._directory / f"{name}.log").read_text(errors="replace")

    def all(self) -> dict[str, str]:
        """Every text by its origin."""
        names = [path.stem for path in self._directory.glob("*.log")]
        return {**{name: self.log(name) for name in names}, **self._answers}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack.embedded(tmp_path_factory.mktemp("canary")) as engines:
        yield Stack(engines.directory, {**engines.environ, **FAULTY})


@pytest.fixture(scope="module")
def output(running: Stack) -> Iterator[Output]:
    """After the tests, no log, answer or metric holds the canary or a key."""
    output = Output(running.directory)
    yield output
    hidden = [CANARY, *KEYS.values()]
    found = [at for at, text in output.all().items() if any(s in text for s in hidden)]
    assert found == []


def in_mode(running: Stack, mode: str, **more: str) -> Stack:
    return Stack(running.directory, {**running.environ, **MODES[mode], **more})


def headers(mode: str) -> dict[str, str]:
    if mode == "development":
        return {}
    token = jwt.encode(identity.claims(), KEYS["JWT_LOCAL_KEY"], "HS256")
    return {"Authorization": f"Bearer {token}", "X-Forwarded-Proto": "https"}


def update(**fields: object) -> dict[str, object]:
    return {"PatientId": "1", "LastName": CANARY, **fields}


NOT_VALID: dict[str, Any] = {
    "date": update(DateOfBirth=CANARY),
    "sex": update(Sex=CANARY),
    "flag": update(IsPregnant=CANARY),
    "object": update(FirstName={CANARY: CANARY}),
    "list": update(FirstName=[CANARY]),
    "long": update(FirstName=CANARY * 100),
    "control": update(FirstName=f"{CANARY}\x07"),
    "no id": {"FirstName": CANARY},
    "bad id": {"PatientId": {"x": CANARY}},
    "array": [update(), update(Sex=CANARY)],
    "text": CANARY,
    "list of text": [CANARY],
}
NOT_JSON = {
    "open": f'{{"PatientId": "1", "FirstName": "{CANARY}',
    "twice": f'{{"PatientId": "1", "PatientId": "{CANARY}"}}',
    "bare": f'{{"PatientId": {CANARY}}}',
    "large": json.dumps(update(FirstName=CANARY * 9000)),
    "nested": f'{{"FirstName": "{CANARY}", "x": {"[" * 5000}',
}


def post(web: Web, mode: str, body: str, **more: str) -> requests.Response:
    return requests.post(
        f"{web.url}/patientprofile",
        data=body.encode(),
        headers={"Content-Type": "application/json", **headers(mode), **more},
        timeout=20,
    )


def get(web: Web, mode: str, path: str) -> requests.Response:
    return requests.get(web.url + path, headers=headers(mode), timeout=20)


@pytest.mark.parametrize("mode", MODES)
def test_no_failing_request_shows_what_it_carried(running, output, mode):
    stack = in_mode(running, mode)
    with Web(stack.directory, stack.environ, f"web-{mode}") as web:
        for what, body in NOT_VALID.items():
            assert output.answer(what, post(web, mode, json.dumps(body))) == 400
        for what, text in NOT_JSON.items():
            assert output.answer(what, post(web, mode, text)) in (400, 413)
        for what in ("parse_array", "publish_all"):  # the first falls in `parse` too
            body = json.dumps(update(Phone=f"fall:{what}"))
            assert output.answer(what, post(web, mode, body)) == 500
            assert output.answer(what, post(web, mode, f"[{body}]")) == 500
        lines = post(web, mode, CANARY, **{"Content-Type": "application/x-ndjson"})
        assert output.answer("lines", lines) == 400
        form = post(web, mode, CANARY, **{"Content-Type": "text/plain"})
        assert output.answer("form", form) == 415
        bad = post(web, mode, "{}", Authorization=f"Bearer {CANARY}.x.y")
        assert output.answer("token", bad) == 401
        for query in ("?limit=", "?cursor=", "/1?wait=1&receipt="):
            answer = get(web, mode, f"/patientprofile{query}{CANARY}")
            assert output.answer(query, answer) == 400
        answer = get(web, mode, f"/patientprofile/fall:_make_api_call?x={CANARY}")
        assert output.answer("a table that quotes", answer) == 503
        assert output.answer("metrics", get(web, mode, "/metrics")) == 200
    assert output.log(f"web-{mode}").count("RuntimeError") == 4


def test_no_value_is_shown_while_the_engines_are_away(running, output):
    stack = in_mode(
        running,
        "production",
        KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{free_port()}",
        DYNAMODB_ENDPOINT_URL=f"http://127.0.0.1:{free_port()}",
    )
    with Alive(stack.directory, stack.environ, "away") as web:
        body = json.dumps(update())
        assert output.answer("no Kafka", post(web, "production", body)) == 503
        assert output.answer("not ready", get(web, "production", "/readyz")) == 503
        path = f"/patientprofile/1?x={CANARY}"
        assert output.answer("no table", get(web, "production", path)) == 503


@pytest.fixture
def runserver(running):
    """The development server, which logs the address of every request."""
    web = Alive(running.directory, running.environ, "runserver")
    web._argv = [*stack.MANAGE, "runserver", "--noreload", str(web.port)]
    with web:
        yield web


def test_pages_that_fail_show_no_value(running, output, runserver):
    body = update(PatientId="page", Phone="fall:profile")
    mode = "development"
    assert post(runserver, mode, json.dumps(body)).status_code == 202
    running.catch_up()
    for path in ("/patientprofile/page", "/profiles/", "/profiles/page/"):
        answer = get(runserver, mode, f"{path}?name={CANARY}")
        assert output.answer(path, answer) == 500
    for query, status in {
        "cursor": 400,
        "sort": 400,
        "q=fall:_make_api_call&x": 503,
    }.items():
        answer = get(runserver, mode, f"/profiles/?{query}={CANARY}")
        assert output.answer(query, answer) == status
    assert output.log("runserver").count("RuntimeError") == 3
    assert "GET /profiles/?... HTTP" in output.log("runserver")


def test_neither_a_dead_letter_nor_a_failing_consumer_shows_a_value(running, output):
    name = "canary"  # a topic of its own: a record that makes the consumer fail stays there
    own = in_mode(running, "production", KAFKA_TOPIC=name, DYNAMODB_TABLE=name)
    own.manage("provision")
    config = {"bootstrap.servers": own.bootstrap_servers}
    producer = Producer({**config, "partitioner": "murmur2_random"})

    def run(called: str, *arguments: str) -> bool:
        return Command(called, own.directory, own.environ, arguments).run(60)

    def consume(called: str, *bodies: str) -> bool:
        for body in bodies:
            producer.produce(name, body.encode(), b"1")
        assert producer.flush(20) == 0
        return run(called, "consume_profiles", "--until-caught-up")

    not_valid = [json.dumps(body) for body in NOT_VALID.values()]
    assert consume("letters", *not_valid, *NOT_JSON.values())
    assert output.log("letters").count("dead letter") >= len(not_valid)
    assert run("listed", "dead_letters", "list")
    assert not consume("refused", json.dumps(update(Phone="fall:_make_api_call")))
    assert "Mend the item" in output.log("refused")
    assert not consume("fallen", json.dumps(update(Phone="fall:decode")))
    assert "RuntimeError" in output.log("fallen")
