"""The API: partial patient profiles in, receipts out.

In: HTTP requests. Out: JSON, or problem+json. Publishes to Kafka and reads the table;
never writes it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any

from django.core import signing
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.utils.http import parse_etags
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from profiles.access import audit_trail, callers
from profiles.api import bodies, openapi, posting, problems
from profiles.core import items, records
from profiles.core.records import ProducerRecord
from profiles.core.updates import Receipt, Source
from profiles.dynamodb import health, reader
from profiles.dynamodb.client import StoreUnavailable
from profiles.kafka import topics
from profiles.kafka.producer import Verdict
from profiles.runtime import metrics

MOST_WAIT_S = 10
"""Below the 15 s that a worker has to end in."""
MOST_ON_A_PAGE = 500
MOMENT_S = 0.1

_PRIVATE = {"Cache-Control": "private, no-cache"}
_CURSOR_SALT = "profiles.api.views.cursor"
_WAIT = re.compile(
    r"""(?:^|[,;\s])wait\s*=\s*("?)(?P<seconds>\d{1,9})\1(?:$|[,;\s])""",
    re.ASCII | re.IGNORECASE,
)


class PatientProfileView(APIView):
    """POST partial profiles."""

    def dispatch(
        self, request: HttpRequest, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        """A POST skips DRF's parsers and renderers: to choose one takes longer than
        the update itself.
        """
        if request.method != "POST":
            return super().dispatch(request, *args, **kwargs)
        try:
            response = self.post(request)
        except Exception as error:
            refusal = posting.refusal(error)
            posting.count_refused(refusal.status_code if refusal else 500)
            if refusal is None:
                raise
            return refusal
        posting.count_refused(response.status_code)
        return response

    @openapi.posted
    def post(self, request: HttpRequest) -> HttpResponse:
        """Publish; 202 with receipts once Kafka holds every update durably."""
        posting.admit(request)
        with bodies.room(request):
            body = bodies.read(request)
            updates = posting.read(body)
            with posting.Publishing(request) as headers:
                verdicts = posting.publisher().publish_all(updates, headers)
            audit_trail.note(request, "update", posting.accepted(updates, verdicts))
            accepted = posting.answer(body, updates, verdicts).response()
        if body.is_many:
            return accepted
        return _applied(request, updates[0], verdicts[0]) or accepted

    @openapi.listed
    def get(self, request: Request) -> Response:
        """A page of profiles in the table's order, and the cursor of the next."""
        limit = _whole_number(request.query_params.get("limit", "50"), "limit")
        if not 1 <= limit <= MOST_ON_A_PAGE:
            raise ValidationError({"limit": [f"Give 1 to {MOST_ON_A_PAGE}."]})
        with _reading():
            after = _position(request.query_params.get("cursor", ""))
            page = reader.profiles().page(limit, after)
        following = page.next_after and signing.dumps(
            page.next_after, salt=_CURSOR_SALT
        )
        found = [items.profile(item) for item in page.items]
        audit_trail.note(request, "list", [profile[items.KEY] for profile in found])
        return Response({"Profiles": found, "Cursor": following}, headers=_PRIVATE)

    def head(self, request: Request) -> Response:
        """As GET. Declared here, because Django would set a bound method on the view: a
        reference cycle, which keeps the request and its body until a collection.
        """
        return self.get(request)


class PatientProfileDetailView(APIView):
    """GET one stored profile."""

    @openapi.fetched
    def get(self, request: Request, patient_id: str) -> Response:
        """The profile as the table holds it now, or once it includes a receipt."""
        with _reading():
            item = self._item(request, patient_id)
        if item is None:
            raise Http404
        audit_trail.note(request, "view", [patient_id])
        headers = {**_PRIVATE, "ETag": items.etag(item)}
        if _is_known(request, headers["ETag"]):
            return Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(items.profile(item), headers=headers)

    def _item(self, request: Request, patient_id: str) -> items.Item | None:
        if "receipt" not in request.query_params:
            return reader.profiles().get(patient_id)
        receipt = _receipt(request.query_params["receipt"], patient_id)
        wait = _whole_number(request.query_params.get("wait", "0"), "wait")
        seconds = min(wait, MOST_WAIT_S)
        item = reader.profiles().await_receipt(patient_id, receipt, seconds)
        if item is None:
            raise problems.NotYetApplied
        return item


def lane(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Middleware: POSTs of updates and the probes go straight to their views. They need
    no session, form or database.
    """
    post = PatientProfileView.as_view()
    probes = dict(zip(callers.PROBES, (live, ready, counted), strict=True))

    def straight(request: HttpRequest) -> HttpResponseBase:
        is_update = request.method == "POST" and request.path_info == bodies.PATH
        view = post if is_update else probes.get(request.path_info)
        if view is None:
            return get_response(request)
        response = view(request)
        if isinstance(response, HttpResponse):  # known, it is not sent in chunks
            response.headers["Content-Length"] = str(len(response.content))
        return response

    return straight


def live(request: HttpRequest) -> HttpResponse:
    """Alive: this process answers. Nothing else is checked."""
    return JsonResponse({"status": "alive"})


def counted(request: HttpRequest) -> HttpResponse:
    """The web processes' figures, as Prometheus reads them."""
    return HttpResponse(metrics.exposition(), content_type=metrics.CONTENT_TYPE)


def ready(request: HttpRequest) -> HttpResponse:
    """Ready: Kafka answers, and the topic is as configured. DynamoDB is only reported."""
    store = _store()
    try:
        topics.watch().current()
    except (topics.KafkaUnavailable, topics.WrongTopic) as error:
        headers = {"Retry-After": "1"}
        return problems.problem(503, f"{error}.", headers, dynamodb=store)
    return JsonResponse({"status": "ready", "dynamodb": store})


def _store() -> str:
    """The state of the table as last read in the background; waits MOMENT_S at most."""
    return health.table().latest(time.monotonic() + MOMENT_S).problem or "answers"


def _is_known(request: Request, etag: str) -> bool:
    """Whether the client has this version: If-None-Match compares weakly (RFC 9110)."""
    known = parse_etags(request.META.get("HTTP_IF_NONE_MATCH", ""))
    return known == ["*"] or etag in [one.removeprefix("W/") for one in known]


def _preferred_wait(request: HttpRequest) -> int:
    """Seconds that the client asks us to wait for the profile (RFC 7240), capped."""
    found = _WAIT.search(request.META.get("HTTP_PREFER", ""))
    return min(int(found["seconds"]), MOST_WAIT_S) if found else 0


def _applied(
    request: HttpRequest, update: ProducerRecord, verdict: Verdict
) -> HttpResponse | None:
    """200 with the profile that includes the update, where the client waits for it.

    None where it does not wait, may not read, or the profile does not include the update
    in time. Raises problems.Unavailable if the topic was recreated since.
    """
    seconds = _preferred_wait(request)
    if not seconds or not isinstance(verdict, Receipt) or not callers.may_read(request):
        return None
    with suppress(StoreUnavailable, topics.KafkaUnavailable):
        _require_current(verdict)
        item = reader.profiles().await_receipt(update.patient_id, verdict, seconds)
        if item is not None:
            audit_trail.note(request, "view", [update.patient_id])
            headers = {
                **_PRIVATE,
                "Preference-Applied": f"wait={seconds}",
                "ETag": items.etag(item),
                "Content-Location": posting.location(update.patient_id),
            }
            return JsonResponse(items.profile(item), headers=headers)
    return None


def _require_current(receipt: Receipt) -> None:
    """Refuse a receipt whose topic was recreated since: offsets of two topics do not
    compare. The topic is read again, because the receipt may name the former one.
    """
    try:
        topic = topics.watch().since(time.monotonic())
    except topics.WrongTopic as error:
        raise problems.Unavailable(f"{error}. Send the update again.") from None
    if topic.id != receipt.source.topic_id:
        raise problems.Unavailable("The topic was recreated. Send the update again.")


def _receipt(text: str, patient_id: str) -> Receipt:
    """The receipt, if it can be one of this patient's updates; else 400."""
    try:
        receipt = Receipt.parse(text)
    except ValueError:
        raise ValidationError({"receipt": ["Not a receipt."]}) from None
    topic = topics.watch().since(time.monotonic())
    partition = records.partition_of(patient_id, topic.partitions)
    if receipt.source != Source(topic.id, partition):
        reason = (
            "The receipt belongs to another patient, or to a topic that was deleted."
        )
        raise ValidationError({"receipt": [reason]})
    return receipt


def _whole_number(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ValidationError({name: ["Give a whole number."]})
    return int(text)


def _position(cursor: str) -> str | None:
    if not cursor:
        return None
    try:
        return str(signing.loads(cursor, salt=_CURSOR_SALT))
    except signing.BadSignature:
        raise ValidationError({"cursor": ["Invalid cursor."]}) from None


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (StoreUnavailable, topics.KafkaUnavailable, topics.WrongTopic) as error:
        raise problems.Unavailable(f"{error}.") from None
