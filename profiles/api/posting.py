"""Posting: the updates of one request, read, published, and answered.

In: the body of a POST, with one update or many. Out: an answer with a receipt for each.
The view calls these functions and waits, the front calls the same and awaits. Knows no
DynamoDB.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from functools import cache, lru_cache
from http import HTTPStatus
from types import TracebackType
from urllib.parse import quote

import msgspec
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from rest_framework.exceptions import NotAcceptable, ValidationError

from profiles.access import callers
from profiles.api import bodies, problems
from profiles.api.answers import Answer
from profiles.core import serializers
from profiles.core.records import Headers, NotStrictJSON, ProducerRecord
from profiles.core.updates import Receipt
from profiles.kafka import clients, topics
from profiles.kafka.producer import NotAcknowledged, Publisher, Verdict
from profiles.runtime import metrics, tracing

MOST_ERRORS = 100

_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]*")
"""What needs no percent-encoding (RFC 3986)."""


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


def admit(request: HttpRequest) -> None:
    """Let in a client that may write and takes JSON; its `caller` is set from then on.

    Raises NotAcceptable, and what `callers.admit` raises.
    """
    callers.admit(request, callers.WRITE)
    if not _takes_json(request.META.get("HTTP_ACCEPT") or "*/*"):
        raise NotAcceptable


@lru_cache(128)
def _takes_json(accept: str) -> bool:
    request = HttpRequest()
    request.META["HTTP_ACCEPT"] = accept
    try:
        return "*/*" in accept or request.accepts(bodies.JSON)
    except ValueError:  # of a parameter's encoding
        return False


# Read


def read(body: bodies.Body) -> list[ProducerRecord]:
    """The updates of a body, in order; one that is not valid refuses them all.

    Raises ParseError, ValidationError, InvalidElements or TooLarge.
    """
    return read_at_once(body) or _read_closely(body)


def read_at_once(body: bodies.Body) -> list[ProducerRecord] | None:
    """As `read`, if compiled code alone can tell that all updates are valid; else None."""
    if body.form == "object":
        update = serializers.parse_at_once(body.text)
        return None if update is None else [update]
    parse = serializers.parse_lines if body.form == "lines" else serializers.parse_array
    return parse(body.text, bodies.MANY) or None


def _read_closely(body: bodies.Body) -> list[ProducerRecord]:
    if body.is_many:
        return _read_each(body.elements())
    try:
        return [serializers.parse(body.text)]
    except NotStrictJSON as error:
        raise bodies.not_json("The body", error) from None


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


class Publishing:
    """Around the publisher, a context: it gives the headers of the records.

    Raises problems.Unavailable if Kafka can't take the updates. A generator would take
    twice as long.
    """

    def __init__(self, request: HttpRequest) -> None:
        self._started = time.perf_counter()
        self._traced = tracing.publishing(request)

    def __enter__(self) -> Headers:
        return self._traced.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._traced.__exit__(kind, error, trace)
        if error is None:
            metrics.acknowledgement.observe(time.perf_counter() - self._started)
        if isinstance(
            error, NotAcknowledged | topics.KafkaUnavailable | topics.WrongTopic
        ):
            raise problems.Unavailable(f"{error}. Send the update again.") from None


def accepted(updates: list[ProducerRecord], verdicts: list[Verdict]) -> list[str]:
    """The patients whose updates have a receipt, for the audit trail. They are counted."""
    found = [
        update.patient_id
        for update, verdict in zip(updates, verdicts, strict=True)
        if isinstance(verdict, Receipt)
    ]
    metrics.accepted.inc(len(found))
    return found


# Answer


def answer(
    body: bodies.Body, updates: list[ProducerRecord], verdicts: list[Verdict]
) -> Answer:
    """202 with a receipt for each update; raises problems.Unavailable, or is a 503 that
    says which of many are not acknowledged.
    """
    if body.is_many:
        return _answer_many(updates, verdicts)
    [update], [verdict] = updates, verdicts
    if isinstance(verdict, NotAcknowledged):
        raise problems.Unavailable(f"{verdict}. Send the update again.")
    return _json(_shown(update, verdict), ("Location", location(update.patient_id)))


def refusal(error: Exception) -> HttpResponse | None:
    """The problem that an error of these functions is; None for a fault of our own."""
    return problems.exception_handler(error, {})


def count_refused(status: int) -> None:
    """Count a request that was not accepted, by its status."""
    if status >= HTTPStatus.BAD_REQUEST:
        metrics.refused.labels(status).inc()


def location(patient_id: str) -> str:
    """The address of the stored profile."""
    if not _UNRESERVED.fullmatch(patient_id):
        patient_id = quote(patient_id, safe="")
    return f"/patientprofile/{patient_id}"


def _answer_many(updates: list[ProducerRecord], verdicts: list[Verdict]) -> Answer:
    shown = [_shown(u, v) for u, v in zip(updates, verdicts, strict=True)]
    if not any(isinstance(verdict, NotAcknowledged) for verdict in verdicts):
        return _json(shown)
    detail = (
        "Kafka did not acknowledge every update; see `updates`. Send each patient's "
        "updates again from the first refused one on."
    )
    retry = {"Retry-After": "1"}
    return Answer.of(problems.problem(503, detail, retry, updates=shown))


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


def _json(body: object, *headers: tuple[str, str]) -> Answer:
    content_type = ("Content-Type", bodies.JSON)
    return Answer(HTTPStatus.ACCEPTED, [content_type, *headers], _encode(body))


_encode = msgspec.json.Encoder().encode
