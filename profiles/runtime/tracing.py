"""Tracing: a request's id, from the request to the consumer's log and write.

In: `X-Request-ID` and W3C `traceparent`, as the client sent them or made here. Out:
record headers, and spans if OpenTelemetry is installed (the extra `otel`). Clients
choose these values, so malformed ones are ignored.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from profiles.core.records import Headers

OTEL = find_spec("opentelemetry") is not None
if OTEL:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import (
        TraceContextTextMapPropagator,
    )

    _PROPAGATOR = TraceContextTextMapPropagator()

REQUEST_ID = "request-id"
TRACEPARENT = "traceparent"

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)

Handler = Callable[[HttpRequest], HttpResponseBase]
Carried = list[tuple[str, str | bytes | None]]


def identify(get_response: Handler) -> Handler:
    """Middleware: gives every request and response an id, the client's or a new one."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        given = name(request)
        response = get_response(request)
        response["X-Request-ID"] = given
        return response

    return middleware


def name(request: HttpRequest) -> str:
    """The request's id, which is in its head from then on."""
    sent = str(request.META.get("HTTP_X_REQUEST_ID", ""))
    if _ID.fullmatch(sent):
        return sent
    made = f"{random.getrandbits(128):032x}"
    request.META["HTTP_X_REQUEST_ID"] = made
    return made


def publishing(request: HttpRequest) -> AbstractContextManager[Headers]:
    """The headers of records that come from this request; with OTel, in a span of ours."""
    request_id = request.META.get("HTTP_X_REQUEST_ID", "")
    parent = request.META.get("HTTP_TRACEPARENT", "")
    carried: Carried = [(REQUEST_ID, request_id.encode())]
    if OTEL:
        return _span(parent, carried)
    if _TRACE.fullmatch(parent):
        carried.append((TRACEPARENT, parent.encode()))
    return nullcontext(carried)


@contextmanager
def _span(parent: str, carried: Carried) -> Iterator[Headers]:
    context = _PROPAGATOR.extract({TRACEPARENT: parent})
    kind = trace.SpanKind.PRODUCER
    with _tracer().start_as_current_span("publish", context=context, kind=kind):
        ours: dict[str, str] = {}
        _PROPAGATOR.inject(ours)
        yield [*carried, *((key, value.encode()) for key, value in ours.items())]


def request_id(carried: Headers) -> str:
    """The request id in a record's headers; empty if it is absent or malformed."""
    return _named(carried, REQUEST_ID, _ID)


@contextmanager
def applying(records: Iterable[Headers]) -> Iterator[None]:
    """With OTel, a span around a write, linked to the requests that it is for."""
    if not OTEL:
        yield
        return
    links = [link for carried in records if (link := _link(carried)) is not None]
    kind = trace.SpanKind.CONSUMER
    with _tracer().start_as_current_span("apply", links=links, kind=kind):
        yield


def _tracer() -> trace.Tracer:
    return trace.get_tracer("patient-profile")


def _link(carried: Headers) -> trace.Link | None:
    parent = _named(carried, TRACEPARENT, _TRACE)
    context = _PROPAGATOR.extract({TRACEPARENT: parent})
    found = trace.get_current_span(context).get_span_context()
    return trace.Link(found) if found.is_valid else None


def _named(carried: Headers, name: str, form: re.Pattern[str]) -> str:
    for key, value in carried:
        text = value.decode("ascii", "replace") if isinstance(value, bytes) else ""
        if key == name and form.fullmatch(text):
            return text
    return ""
