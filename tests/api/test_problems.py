"""Problems: every error that is not a page's is problem+json; and who may come in."""

from __future__ import annotations

import ipaddress
import json
import time

import pytest
from django.test import Client

from profiles.dynamodb import health
from profiles.kafka import topics
from profiles.kafka.topics import KafkaUnavailable, WrongTopic
from profiles.runtime.background import Reading
from tests.fakes import TOPIC

PROBLEM = "application/problem+json"
HTML = "text/html; charset=utf-8"

pytestmark = pytest.mark.usefixtures("either_way")


def answer(path="/livez", **options):
    return Client(raise_request_exception=False).get(path, **options)


def kind(response):
    return response.status_code, response["Content-Type"]


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/patientprofile/", "/patientprofiles", "/api", "/%ff", "/a\nb"],
)
def test_an_unknown_address_is_a_problem(path):
    response = answer(path)
    assert kind(response) == (404, PROBLEM)
    assert json.loads(response.content) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "There is nothing at this address.",
    }


def test_an_unknown_page_is_html():
    assert kind(answer("/pipeline/nothing")) == (404, HTML)


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "a b", ""])
def test_a_foreign_host_is_a_problem(host):
    assert kind(answer("/patientprofile", headers={"host": host})) == (400, PROBLEM)


def test_a_foreign_host_at_a_page_is_html():
    assert kind(answer("/profiles/", headers={"host": "evil.example"})) == (400, HTML)


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:3000", "[::1]:3000", "0.0.0.0:3000", "0.0.0.0:8"]
)
def test_the_hosts_of_this_machine_are_served_on_any_port(host):
    assert answer(headers={"host": host}).status_code == 200


@pytest.mark.parametrize("peer", ["10.0.0.5", "192.168.1.1", "2001:db8::1", "8.8.8.8"])
def test_development_is_closed_to_other_machines(peer):
    assert kind(answer(REMOTE_ADDR=peer)) == (403, PROBLEM)
    assert kind(answer("/profiles/", REMOTE_ADDR=peer)) == (403, HTML)


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1"])
def test_development_is_open_to_this_machine(peer):
    assert answer(REMOTE_ADDR=peer).status_code == 200


def test_development_is_open_to_the_networks_that_are_named(settings):
    settings.OPEN_PEERS = [ipaddress.ip_network("172.18.0.0/16")]
    assert answer(REMOTE_ADDR="172.18.0.9").status_code == 200
    assert answer(REMOTE_ADDR="172.19.0.9").status_code == 403


def test_alive_asks_nobody():
    assert answer("/livez").json() == {"status": "alive"}


class Watched:
    """What the process knows of the topic."""

    def __init__(self, problem: Exception | None) -> None:
        self.problem = problem

    def current(self) -> topics.Topic:
        if self.problem is not None:
            raise self.problem
        return TOPIC


class Observed:
    """What the background knows of the table."""

    def __init__(self, problem: str) -> None:
        self.problem = problem

    def latest(self, by: float) -> Reading[object]:
        assert by < time.monotonic() + 0.5
        return Reading(None, self.problem)


@pytest.fixture(params=["", "DynamoDB does not answer"], ids=["answers", "away"])
def dynamodb_is(request, monkeypatch):
    """What is told of DynamoDB."""
    monkeypatch.setattr(health, "table", lambda: Observed(request.param))
    return request.param or "answers"


def test_ready_while_kafka_answers_whatever_dynamodb_does(monkeypatch, dynamodb_is):
    monkeypatch.setattr(topics, "watch", lambda: Watched(None))
    response = answer("/readyz")
    assert response.status_code == 200
    assert response.json() == {"status": "ready", "dynamodb": dynamodb_is}


@pytest.mark.parametrize("problem", [KafkaUnavailable("away"), WrongTopic("grown")])
def test_not_ready_without_kafka_or_with_a_wrong_topic(
    monkeypatch, problem, dynamodb_is
):
    monkeypatch.setattr(topics, "watch", lambda: Watched(problem))
    response = answer("/readyz")
    assert kind(response) == (503, PROBLEM)
    assert response["Retry-After"]
    told = json.loads(response.content)
    assert str(problem) in told["detail"]
    assert told["dynamodb"] == dynamodb_is
