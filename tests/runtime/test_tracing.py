"""Tracing and figures: a request's name reaches the consumer, and all is counted."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from prometheus_client import REGISTRY

from profiles.api import posting
from profiles.core.updates import Receipt, Source
from profiles.kafka.producer import NotAcknowledged
from profiles.runtime import tracing
from tests.fakes import EitherWay

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

pytestmark = pytest.mark.usefixtures("either_way")


@pytest.fixture
def sent(monkeypatch):
    """What a publisher is given besides the updates."""
    seen: list[dict[str, bytes]] = []

    class Publisher(EitherWay):
        def publish_all(self, updates, headers):
            seen.append(dict(headers))
            return [Receipt(Source("topic-1", 3), 41) for _ in updates]

    monkeypatch.setattr(posting, "publisher", Publisher)
    return seen


def post(body: str = '{"PatientId": "1"}', **headers: str) -> Any:
    return Client().post("/patientprofile", body, "application/json", headers=headers)


def figure(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_a_clients_request_id_is_answered_and_carried_by_the_record(sent):
    answer = post(**{"x-request-id": "order-7"})
    assert answer["X-Request-ID"] == "order-7"
    assert sent[0]["request-id"] == b"order-7"


@pytest.mark.parametrize("told", ["", "a b", "x" * 65, "é", "a\tb"])
def test_another_name_is_made_for_what_is_no_name(sent, told):
    answer = post(**{"x-request-id": told})
    assert answer["X-Request-ID"] not in ("", told)
    assert sent[0]["request-id"].decode() == answer["X-Request-ID"]


def test_a_refused_request_has_its_name_too(sent):
    assert post("{", **{"x-request-id": "order-7"})["X-Request-ID"] == "order-7"


@pytest.mark.parametrize("installed", [True, False])
def test_the_trace_goes_on_in_the_record(sent, monkeypatch, installed):
    monkeypatch.setattr(tracing, "OTEL", installed)
    post(traceparent=PARENT)
    assert sent[0]["traceparent"].split(b"-")[1] == PARENT.split("-")[1].encode()


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("told", ["", "rubbish", PARENT.upper()])
def test_what_is_no_trace_is_not_carried_on(sent, monkeypatch, installed, told):
    monkeypatch.setattr(tracing, "OTEL", installed)
    post(traceparent=told)
    assert "traceparent" not in sent[0]


def test_the_consumers_write_is_linked_to_the_requests_trace():
    link = tracing._link([("traceparent", PARENT.encode())])
    assert link is not None
    assert f"{link.context.trace_id:032x}" == PARENT.split("-")[1]
    assert tracing._link([("traceparent", b"rubbish")]) is None


def test_a_record_tells_its_request_only_by_a_proper_name():
    assert tracing.request_id([("request-id", b"order-7")]) == "order-7"
    assert tracing.request_id([("request-id", b"a\nb")]) == ""
    assert tracing.request_id([("request-id", None)]) == ""
    assert tracing.request_id(()) == ""


def test_what_is_accepted_and_refused_is_counted(sent, monkeypatch):
    before = figure("profile_updates_accepted_total")
    post('[{"PatientId": "1"}, {"PatientId": "2"}]')
    assert figure("profile_updates_accepted_total") == before + 2
    before = figure("profile_requests_refused_total", status="400")
    post("{")
    assert figure("profile_requests_refused_total", status="400") == before + 1


def test_what_kafka_refuses_is_not_counted_as_accepted(monkeypatch):
    class Publisher(EitherWay):
        def publish_all(self, updates, headers):
            return [NotAcknowledged("away")]

    monkeypatch.setattr(posting, "publisher", Publisher)
    before = figure("profile_updates_accepted_total")
    refused = figure("profile_requests_refused_total", status="503")
    post()
    assert figure("profile_updates_accepted_total") == before
    assert figure("profile_requests_refused_total", status="503") == refused + 1


def test_what_kafka_takes_in_part_is_counted_as_both(monkeypatch):
    class Publisher(EitherWay):
        def publish_all(self, updates, headers):
            return [Receipt(Source("topic-1", 3), 41), NotAcknowledged("away")]

    monkeypatch.setattr(posting, "publisher", Publisher)
    before = figure("profile_updates_accepted_total")
    refused = figure("profile_requests_refused_total", status="503")
    assert post('[{"PatientId": "1"}, {"PatientId": "2"}]').status_code == 503
    assert figure("profile_updates_accepted_total") == before + 1
    assert figure("profile_requests_refused_total", status="503") == refused + 1


def test_the_figures_are_text_for_prometheus_without_any_patient(sent):
    post('{"PatientId": "patient-canary", "FirstName": "Secret"}')
    answer = Client().get("/metrics")
    assert answer["Content-Type"].startswith("text/plain")
    text = answer.content.decode()
    assert "profile_updates_accepted_total" in text
    assert "canary" not in text
    assert "Secret" not in text
