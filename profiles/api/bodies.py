"""The body: what a POST carries.

In: an HTTP request. Out: the JSON text of one update, or of each of many, within limits
of bytes and number; or an error of the 4xx kind. Does not know the fields.
"""

from __future__ import annotations

import re
import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest
from django.http.request import UnreadablePostError
from django.http.response import HttpResponseBase
from rest_framework.exceptions import ParseError, UnsupportedMediaType

from profiles.api import problems
from profiles.core import records
from profiles.runtime.gates import Budget, Full

ONE_BYTES = records.MAX_VALUE_BYTES
MANY_BYTES = 8 * 1024 * 1024
MANY = 10_000
FORM_BYTES = 64 * 1024
"""The body of any other request: a form of the admin."""

PATH = "/patientprofile"
JSON = "application/json"
NDJSON = "application/x-ndjson"

large = Budget(8 * MANY_BYTES)
"""Bytes of bodies over ONE_BYTES that are read or answered at a time: it bounds their
memory, which is up to four times as much."""

HAS_ROOM = "profiles.has_room"
"""In the environ of a request whose body has its share of `large` already."""

_ARRAY = re.compile(rb"[ \t\r\n]*\[")
_SMALL = nullcontext()


@dataclass(frozen=True, slots=True)
class Body:
    """What was posted, before it is parsed: one update, an array, or one per line."""

    text: bytes = field(repr=False)
    form: Literal["object", "array", "lines"]

    @property
    def is_many(self) -> bool:
        """Whether it may hold more than one update."""
        return self.form != "object"

    def elements(self) -> list[bytes]:
        """The JSON text of each of many; raises TooLarge or ParseError."""
        found = _lines(self.text) if self.form == "lines" else _split(self.text)
        if len(found) > MANY:
            raise problems.TooLarge(f"More than {MANY:,} updates in one request.")
        if not found:
            raise ParseError("The body holds no update.")
        return found


def limit(method: str, path: str) -> int:
    """The most bytes that a request's body may have."""
    return MANY_BYTES if method == "POST" and path == PATH else FORM_BYTES


def announced(meta: Mapping[str, Any]) -> int:
    """The Content-Length in bytes, 0 if there is none. Raises ParseError."""
    length = meta.get("CONTENT_LENGTH") or "0"
    if not length.isascii() or not length.isdigit():
        raise ParseError("The Content-Length is not a number.")
    return int(length) if len(length) <= 18 else sys.maxsize


def limited(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Middleware: refuses a body that no page and no form needs, before it is read."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        length = request.META.get("CONTENT_LENGTH") or ""
        if length.isdigit() and (len(length) > 18 or int(length) > FORM_BYTES):
            return problems.too_large(
                request, f"The body is over {FORM_BYTES:,} bytes."
            )
        return get_response(request)

    return middleware


def room(request: HttpRequest) -> AbstractContextManager[None]:
    """A thread's share of `large`, by the announced length.

    Entering raises problems.Unavailable if there is no room.
    """
    if HAS_ROOM in request.META:
        return _SMALL
    try:
        length = announced(request.META)
    except ParseError:  # `read` refuses it
        return _SMALL
    return _share(length) if ONE_BYTES < length <= MANY_BYTES else _SMALL


@contextmanager
def _share(length: int) -> Iterator[None]:
    try:
        with large.share(length):
            yield
    except Full:
        raise no_room() from None


def no_room() -> problems.Unavailable:
    """503: large bodies take all the memory that they may take."""
    return problems.Unavailable("Too many large requests at a time. Send it again.")


def read(request: HttpRequest) -> Body:
    """The posted JSON.

    Raises UnsupportedMediaType, LengthRequired, TooLarge or ParseError.
    """
    if request.content_type not in (JSON, NDJSON) and _has_body(request):
        raise UnsupportedMediaType(request.content_type or "none")
    raw = _bytes(request).removeprefix(BOM_UTF8)
    if request.content_type == NDJSON:
        return Body(raw, "lines")
    if _ARRAY.match(raw):
        return Body(raw, "array")
    if len(raw) > ONE_BYTES:
        raise problems.TooLarge(f"An object is over {ONE_BYTES:,} bytes.")
    return Body(raw, "object")


def incomplete() -> ParseError:
    """400: the body broke off, or its chunks are malformed."""
    return ParseError("The body is not complete.")


def not_json(what: str, error: records.NotStrictJSON) -> ParseError:
    """400: what of the body is not JSON, and why."""
    return ParseError(f"{what} is not valid JSON: {error}.")


def _has_body(request: HttpRequest) -> bool:
    return request.META.get("CONTENT_LENGTH") not in (None, "", "0")


def _bytes(request: HttpRequest) -> bytes:
    """The raw body. It is not read if the announced length is over the limit."""
    if not request.META.get("CONTENT_LENGTH") and _is_chunked(request.META):
        raise problems.LengthRequired
    if announced(request.META) > MANY_BYTES:
        raise problems.TooLarge(f"The body is over {MANY_BYTES:,} bytes.")
    try:
        return request.body
    except RequestDataTooBig:
        raise problems.TooLarge(f"The body is over {MANY_BYTES:,} bytes.") from None
    except UnreadablePostError:
        raise incomplete() from None


def _is_chunked(meta: Mapping[str, Any]) -> bool:
    return "HTTP_TRANSFER_ENCODING" in meta


def _lines(raw: bytes) -> list[bytes]:
    return [line for line in raw.split(b"\n") if line.strip()]


def _split(raw: bytes) -> list[bytes]:
    try:
        return records.split(raw, MANY)
    except records.NotStrictJSON as error:
        raise not_json("The body", error) from None
