"""Posting: the updates of one request, read, published, and answered.

In: the body of a POST, with one update or many. Out: a response with a receipt for
each. Knows no DynamoDB.
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

MOST_ERRORS = 100


@cache
def publisher() -> Publisher:
    """This process's publisher. Made after any fork: Kafka's client does not survive one."""
    capacity = max(1, settings.WEB_THREADS * 2 // 3)
    watch = topics.watch()
    return Publisher(clients.producer, watch.current, watch.is_still, capacity)


def connect() -> None:
    """Connect the producer now, so that the first update does not wait for it."""
    with suppress(NotAcknowledged, topics.KafkaUnavailable, topics.WrongTopic):
        publisher().connect()


# Read


def read(body: bodies.Body) -> list[ProducerRecord]:
    """The updates of a body, in order; one that is not valid refuses them all.

    Raises ParseError, ValidationError, InvalidElements or TooLarge.
    """
    if body.is_many:
        return _read_at_once(body) or _read_each(body.elements())
    try:
        return [serializers.parse(body.text)]
    except NotStrictJSON as error:
        raise bodies.not_json("The body", error) from None


def _read_at_once(body: bodies.Body) -> list[ProducerRecord] | None:
    if body.form == "array":
        return serializers.parse_array(body.text, bodies.MANY)
    return None


def _read_each(texts: list[bytes]) -> list[ProducerRecord]:
    """All or nothing: the error of each invalid element is reported by its index."""
    updates, errors = [], []
    for index, text in enumerate(texts):
        try:
            updates.append(serializers.parse(text))
        except NotStrictJSON as error:
            raise bodies.not_json(f"The update at index {index}", error) from None
        except ValidationError as error:
            errors.append({"index": index, "errors": error.detail})
    if errors:
        raise problems.InvalidElements(errors[:MOST_ERRORS], len(errors))
    return updates


# Publish


def publish(request: HttpRequest, updates: list[ProducerRecord]) -> list[Verdict]:
    """A receipt or a NotAcknowledged for each update; raises problems.Unavailable."""
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


# Answer


def answer_one(update: ProducerRecord, verdict: Verdict) -> HttpResponse:
    """202 with the receipt, and where the profile is going to be.

    Raises problems.Unavailable where Kafka did not acknowledge the update.
    """
    if isinstance(verdict, NotAcknowledged):
        raise problems.Unavailable(f"{verdict}. Send the update again.")
    return _json(_shown(update, verdict), Location=location(update.patient_id))


def answer_many(updates: list[ProducerRecord], verdicts: list[Verdict]) -> HttpResponse:
    """202 with a receipt for each, in order; 503 that says which are not acknowledged."""
    shown = [_shown(u, v) for u, v in zip(updates, verdicts, strict=True)]
    if not any(isinstance(verdict, NotAcknowledged) for verdict in verdicts):
        return _json(shown)
    detail = (
        "Kafka did not acknowledge every update; see `updates`. Send each patient's "
        "updates again from the first refused one on."
    )
    return problems.problem(503, detail, {"Retry-After": "1"}, updates=shown)


def location(patient_id: str) -> str:
    """The address of the stored profile."""
    return f"/patientprofile/{quote(patient_id, safe='')}"


def _shown(update: ProducerRecord, verdict: Verdict) -> dict[str, object]:
    """One update's entry in the answer."""
    if isinstance(verdict, Receipt):
        return {
            "PatientId": update.patient_id,
            "Partition": verdict.source.partition,
            "Offset": verdict.offset,
            "Receipt": str(verdict),
        }
    return {"PatientId": update.patient_id, "Refused": str(verdict)}


def _json(body: object, **headers: str) -> HttpResponse:
    return HttpResponse(
        msgspec.json.encode(body),
        status=HTTPStatus.ACCEPTED,
        content_type=bodies.JSON,
        headers=headers,
    )
