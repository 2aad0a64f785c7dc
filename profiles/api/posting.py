"""Ingest: updates that a request carries, put on the topic, and the answer to that.

In: the body of a POST. Out: a response with a receipt for each. Knows no DynamoDB.
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import cache
from http import HTTPStatus
from urllib.parse import quote

import msgspec
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from rest_framework.exceptions import ValidationError

from profiles.access import audit_trail
from profiles.api import bodies, problems
from profiles.core import serializers
from profiles.core.records import NotStrictJSON, ProducerRecord
from profiles.core.updates import Receipt
from profiles.kafka import clients, topics
from profiles.kafka.producer import NotAcknowledged, Publisher, Verdict
from profiles.runtime import metrics, tracing

ERRORS_TOLD = 100


@cache
def publisher() -> Publisher:
    """This process's one publisher, made after any fork: Kafka's client outlives none."""
    capacity = max(1, settings.WEB_THREADS * 2 // 3)
    watch = topics.watch()
    return Publisher(clients.producer, watch.current, watch.is_still, capacity)


def connect() -> None:
    """Spare the first update the time that a producer takes to connect."""
    with suppress(NotAcknowledged, topics.KafkaUnavailable, topics.WrongTopic):
        publisher().connect()


def read_one(text: bytes) -> ProducerRecord:
    """A valid update; raises ParseError or ValidationError."""
    try:
        return serializers.parse(text)
    except NotStrictJSON as error:
        raise bodies.not_json("The body", error) from None


def publish_one(request: HttpRequest, update: ProducerRecord) -> Receipt:
    """The receipt of one update; raises problems.Unavailable."""
    [verdict] = _publish(request, [update])
    if isinstance(verdict, NotAcknowledged):
        raise problems.Unavailable(f"{verdict}. Send the update again.")
    return verdict


def accepted(update: ProducerRecord, receipt: Receipt) -> HttpResponse:
    """202 with the receipt, and where the profile is going to be."""
    return _json(_told(update, receipt), Location=location(update.patient_id))


def location(patient_id: str) -> str:
    """The address of the stored profile."""
    return f"/patientprofile/{quote(patient_id, safe='')}"


def publish_many(request: HttpRequest, body: bodies.Body) -> HttpResponse:
    """202 with a receipt for each, in order; all are validated before any is sent.

    Raises ParseError, problems.TooLarge, InvalidElements or Unavailable.
    """
    updates = _read_at_once(body) or _read_each(body.elements())
    verdicts = _publish(request, updates)
    if any(isinstance(verdict, NotAcknowledged) for verdict in verdicts):
        return _partly_refused(updates, verdicts)
    return _json([_told(u, v) for u, v in zip(updates, verdicts, strict=True)])


def _read_at_once(body: bodies.Body) -> list[ProducerRecord] | None:
    if body.form == "array":
        return serializers.parse_array(body.text, bodies.MANY)
    return None


def _read_each(texts: list[bytes]) -> list[ProducerRecord]:
    """All or nothing: every bad element is told, by its index."""
    updates, errors = [], []
    for index, text in enumerate(texts):
        try:
            updates.append(serializers.parse(text))
        except NotStrictJSON as error:
            raise bodies.not_json(f"The update at index {index}", error) from None
        except ValidationError as error:
            errors.append({"index": index, "errors": error.detail})
    if errors:
        raise problems.InvalidElements(errors[:ERRORS_TOLD], len(errors))
    return updates


def _publish(request: HttpRequest, updates: list[ProducerRecord]) -> list[Verdict]:
    started = time.perf_counter()
    try:
        with tracing.publishing(request) as headers:
            verdicts = publisher().publish_all(updates, headers)
    except (NotAcknowledged, topics.KafkaUnavailable, topics.WrongTopic) as error:
        raise problems.Unavailable(f"{error}. Send the update again.") from None
    accepted = [
        update.patient_id
        for update, verdict in zip(updates, verdicts, strict=True)
        if isinstance(verdict, Receipt)
    ]
    metrics.acknowledgement.observe(time.perf_counter() - started)
    metrics.accepted.inc(len(accepted))
    audit_trail.note(request, "update", accepted)
    return verdicts


def _told(update: ProducerRecord, verdict: Verdict) -> dict[str, object]:
    """What a client learns of one update."""
    if isinstance(verdict, Receipt):
        return {
            "PatientId": update.patient_id,
            "Partition": verdict.source.partition,
            "Offset": verdict.offset,
            "Receipt": str(verdict),
        }
    return {"PatientId": update.patient_id, "Refused": str(verdict)}


def _partly_refused(
    updates: list[ProducerRecord], verdicts: list[Verdict]
) -> HttpResponse:
    detail = (
        "Kafka did not acknowledge every update; see `updates`. Send each patient's "
        "updates again from the first refused one on."
    )
    told = [_told(u, v) for u, v in zip(updates, verdicts, strict=True)]
    return problems.problem(503, detail, {"Retry-After": "1"}, updates=told)


def _json(body: object, **headers: str) -> HttpResponse:
    return HttpResponse(
        msgspec.json.encode(body),
        status=HTTPStatus.ACCEPTED,
        content_type=bodies.JSON,
        headers=headers,
    )
