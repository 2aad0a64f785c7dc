"""The API: partial patient profiles in, receipts out.

In: HTTP requests. Out: JSON, or problem+json. Publishes to Kafka and reads the table;
never writes it.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from http import HTTPStatus
from typing import IO, Any
from urllib.parse import quote

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from profiles import (
    connections,
    items,
    lookups,
    problems,
    records,
    serializers,
    topics,
)
from profiles.lookups import StoreUnavailable
from profiles.producer import NotAcknowledged, Publisher


@cache
def publisher() -> Publisher:
    """This process's one publisher, made with its first update: after any fork."""
    capacity = max(1, settings.WEB_THREADS - 4)
    return Publisher(connections.producer, topics.watch().current, capacity)


class StrictJSONParser(BaseParser):
    """Reads `application/json` as `records.load_json` does."""

    media_type = "application/json"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Any = None,
    ) -> Any:
        try:
            return records.load_json(stream.read())
        except records.NotStrictJSON as error:
            raise ParseError(f"The body is not valid JSON: {error}.") from None


class PatientProfileView(APIView):
    """POST a partial profile."""

    parser_classes = (StrictJSONParser,)

    def post(self, request: Request) -> Response:
        """Publish the update; 202 once Kafka holds it durably."""
        _check_length(request)
        update = serializers.parse(request.data)
        try:
            receipt = publisher().publish(update)
        except (NotAcknowledged, topics.KafkaUnavailable, topics.WrongTopic) as error:
            raise problems.Unavailable(f"{error}. Send the update again.") from None
        return Response(
            {
                "PatientId": update.patient_id,
                "Partition": receipt.source.partition,
                "Offset": receipt.offset,
                "Receipt": str(receipt),
            },
            status=HTTPStatus.ACCEPTED,
            headers={
                "Location": f"/patientprofile/{quote(update.patient_id, safe='')}"
            },
        )


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


def _check_length(request: Request) -> None:
    """Refuse a body by its announced length, before a byte of it is read."""
    length = request.META.get("CONTENT_LENGTH") or ""
    if not length and "HTTP_TRANSFER_ENCODING" in request.META:
        raise problems.LengthRequired
    with suppress(ValueError):  # of what is no number, Django reads nothing
        if int(length) > records.MAX_VALUE_BYTES:
            raise problems.TooLarge
