"""The API: partial patient profiles in, receipts out.

In: HTTP requests. Out: JSON, or problem+json. Publishes to Kafka and reads the table;
never writes it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from threading import BoundedSemaphore
from typing import Any
from urllib.parse import quote

import orjson
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from rest_framework.exceptions import NotAcceptable, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from profiles import (
    access,
    bodies,
    connections,
    items,
    lookups,
    problems,
    serializers,
    topics,
)
from profiles.lookups import StoreUnavailable
from profiles.producer import NotAcknowledged, Publisher, Verdict
from profiles.updates import Receipt, Update

ERRORS_TOLD = 100

_many_at_a_time = BoundedSemaphore(4)
"""Bodies of 8 MiB: the memory that they take is bounded by their number."""


@cache
def publisher() -> Publisher:
    """This process's one publisher, made with its first update: after any fork."""
    capacity = max(1, settings.WEB_THREADS - 4)
    return Publisher(connections.producer, topics.watch().current, capacity)


class PatientProfileView(APIView):
    """POST partial profiles."""

    def dispatch(
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        """A POST skips what DRF does for other views and this one has no use for:
        choosing a parser and a renderer takes longer than the update itself.
        """
        if request.method != "POST":
            return super().dispatch(request, *args, **kwargs)
        try:
            return self.post(request)
        except Exception as error:
            if (response := problems.exception_handler(error, {})) is None:
                raise
            return response

    def post(self, request: HttpRequest) -> HttpResponse:
        """Publish; 202 with receipts once Kafka holds every update durably."""
        access.require_open(request)
        _require_json_accepted(request)
        body = bodies.read(request)
        if body.many:
            return _publish_many(body.values)
        return _publish_one(serializers.parse(body.values[0]))


class PatientProfileDetailView(APIView):
    """GET one stored profile."""

    def get(self, request: Request, patient_id: str) -> Response:
        """The profile as the table holds it now."""
        try:
            item = lookups.profiles().get(patient_id)
        except StoreUnavailable as error:
            raise problems.Unavailable(f"{error}.") from None
        if item is None:
            raise Http404
        return Response(items.profile(item))


def ingest_lane(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Middleware: a POST of updates goes straight to its view, past sessions, forms
    and the database, of which it has none.
    """
    post = PatientProfileView.as_view()

    def lane(request: HttpRequest) -> HttpResponseBase:
        if request.method == "POST" and request.path_info == "/patientprofile":
            return post(request)
        return get_response(request)

    return lane


def live(request: HttpRequest) -> HttpResponse:
    """Alive: this process answers. Asks nobody."""
    return JsonResponse({"status": "alive"})


def ready(request: HttpRequest) -> HttpResponse:
    """Ready: Kafka answers, and the topic is as configured."""
    try:
        topics.watch().current()
    except (topics.KafkaUnavailable, topics.WrongTopic) as error:
        return problems.problem(503, f"{error}.", {"Retry-After": "1"})
    return JsonResponse({"status": "ready"})


def _publish_one(update: Update) -> HttpResponse:
    [verdict] = _publish([update])
    if isinstance(verdict, NotAcknowledged):
        raise problems.Unavailable(f"{verdict}. Send the update again.")
    location = f"/patientprofile/{quote(update.patient_id, safe='')}"
    return _json(_told(update, verdict), Location=location)


def _publish_many(values: list[object]) -> HttpResponse:
    if not _many_at_a_time.acquire(blocking=False):
        raise problems.Unavailable("Too many large requests at a time. Send it again.")
    try:
        updates = _parse_all(values)
        verdicts = _publish(updates)
    finally:
        _many_at_a_time.release()
    if any(isinstance(verdict, NotAcknowledged) for verdict in verdicts):
        return _partly_refused(updates, verdicts)
    return _json([_told(u, v) for u, v in zip(updates, verdicts, strict=True)])


def _parse_all(values: list[object]) -> list[Update]:
    """All or nothing: every bad element is told, by its index."""
    updates, errors = [], []
    for index, value in enumerate(values):
        try:
            updates.append(serializers.parse(value))
        except ValidationError as error:
            errors.append({"index": index, "errors": error.detail})
    if errors:
        raise problems.InvalidElements(errors[:ERRORS_TOLD], len(errors))
    return updates


def _publish(updates: list[Update]) -> list[Verdict]:
    try:
        return publisher().publish_all(updates)
    except (NotAcknowledged, topics.KafkaUnavailable, topics.WrongTopic) as error:
        raise problems.Unavailable(f"{error}. Send the update again.") from None


def _told(update: Update, verdict: Verdict) -> dict[str, object]:
    """What a client learns of one update."""
    if isinstance(verdict, Receipt):
        return {
            "PatientId": update.patient_id,
            "Partition": verdict.source.partition,
            "Offset": verdict.offset,
            "Receipt": str(verdict),
        }
    return {"PatientId": update.patient_id, "Refused": str(verdict)}


def _partly_refused(updates: list[Update], verdicts: list[Verdict]) -> HttpResponse:
    detail = (
        "Kafka did not acknowledge every update; see `updates`. Send each patient's "
        "updates again from the first refused one on."
    )
    told = [_told(u, v) for u, v in zip(updates, verdicts, strict=True)]
    return problems.problem(503, detail, {"Retry-After": "1"}, updates=told)


def _json(body: object, **headers: str) -> HttpResponse:
    return HttpResponse(
        orjson.dumps(body),
        status=HTTPStatus.ACCEPTED,
        content_type=bodies.JSON,
        headers=headers,
    )


def _require_json_accepted(request: HttpRequest) -> None:
    accepted = request.META.get("HTTP_ACCEPT") or "*/*"
    if "*/*" not in accepted and not request.accepts(bodies.JSON):
        raise NotAcceptable
