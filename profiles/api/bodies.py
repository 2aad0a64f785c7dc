"""The body: what a POST carries.

In: an HTTP request. Out: the JSON text of one update, or of each of many, within limits
of bytes and number; or an error of the 4xx kind. Does not know the fields.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Literal

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest
from django.http.request import UnreadablePostError
from rest_framework.exceptions import ParseError, UnsupportedMediaType

from profiles.api import problems
from profiles.core import records

ONE_BYTES = records.MAX_VALUE_BYTES
MANY_BYTES = 8 * 1024 * 1024
MANY = 10_000

JSON = "application/json"
NDJSON = "application/x-ndjson"

_ARRAY = re.compile(rb"[ \t\r\n]*\[")
_ANYWHERE = nullcontext()
_large_at_a_time = BoundedSemaphore(4)
"""Up to 8 MiB each: the memory that they take is bounded by their number."""


@dataclass(frozen=True, slots=True)
class Body:
    """What was posted, yet to be read: one update, an array of them, or one a line."""

    text: bytes
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


def room(request: HttpRequest) -> AbstractContextManager[None]:
    """What a body is read and answered in: by its announced length, one of few places.

    Entering raises problems.Unavailable where none is free.
    """
    return _place() if _is_large(request) else _ANYWHERE


def read(request: HttpRequest) -> Body:
    """The posted JSON.

    Raises UnsupportedMediaType, LengthRequired, TooLarge or ParseError.
    """
    if request.content_type not in (JSON, NDJSON) and _has_body(request):
        raise UnsupportedMediaType(request.content_type or "none")
    raw = _bytes(request)
    if request.content_type == NDJSON:
        return Body(raw, "lines")
    if _ARRAY.match(raw):
        return Body(raw, "array")
    if len(raw) > ONE_BYTES:
        raise problems.TooLarge(f"An object is over {ONE_BYTES:,} bytes.")
    return Body(raw, "object")


def not_json(what: str, error: records.NotStrictJSON) -> ParseError:
    """400: what of the body is not JSON, and why."""
    return ParseError(f"{what} is not valid JSON: {error}.")


@contextmanager
def _place() -> Iterator[None]:
    if not _large_at_a_time.acquire(blocking=False):
        raise problems.Unavailable("Too many large requests at a time. Send it again.")
    try:
        yield
    finally:
        _large_at_a_time.release()


def _is_large(request: HttpRequest) -> bool:
    try:
        return ONE_BYTES < int(request.META.get("CONTENT_LENGTH") or 0) <= MANY_BYTES
    except ValueError:  # `read` refuses it
        return False


def _has_body(request: HttpRequest) -> bool:
    return request.META.get("CONTENT_LENGTH") not in (None, "", "0")


def _bytes(request: HttpRequest) -> bytes:
    """The raw body. It is not read if the announced length is over the limit."""
    if _length(request) > MANY_BYTES:
        raise problems.TooLarge(f"The body is over {MANY_BYTES:,} bytes.")
    try:
        return request.body
    except RequestDataTooBig:
        raise problems.TooLarge(f"The body is over {MANY_BYTES:,} bytes.") from None
    except UnreadablePostError:
        raise ParseError("The body ended before its announced length.") from None


def _length(request: HttpRequest) -> int:
    """The announced length in bytes, 0 without a body."""
    length = request.META.get("CONTENT_LENGTH") or ""
    if not length and "HTTP_TRANSFER_ENCODING" in request.META:
        raise problems.LengthRequired
    if not (length or "0").isascii() or not (length or "0").isdigit():
        raise ParseError("The Content-Length is not a number.")
    return int(length or 0) if len(length) <= 18 else sys.maxsize


def _lines(raw: bytes) -> list[bytes]:
    return [line for line in raw.split(b"\n") if line.strip()]


def _split(raw: bytes) -> list[bytes]:
    try:
        return records.split(raw, MANY)
    except records.NotStrictJSON as error:
        raise not_json("The body", error) from None
