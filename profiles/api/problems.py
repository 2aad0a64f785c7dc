"""Problems: every error of the API as `application/problem+json` (RFC 9457).

In: exceptions that reach DRF or Django. Out: responses that say what is wrong and what
to do. They quote no posted value. The pages' errors are HTML.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.views import defaults
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import exception_handler as drf_exception_handler

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
PAGES = ("/profiles/", "/pipeline/", "/admin/")


class TooLarge(exceptions.APIException):
    """413: the body is over the limit."""

    status_code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    default_detail = "The body is too large."


class LengthRequired(exceptions.APIException):
    """411: a chunked body, which this server does not decode."""

    status_code = HTTPStatus.LENGTH_REQUIRED
    default_detail = "Send a Content-Length: a chunked body is not read."


class TooSlow(exceptions.APIException):
    """408: the body did not arrive in time."""

    status_code = HTTPStatus.REQUEST_TIMEOUT
    default_detail = "The body did not arrive in time. Send it again."


class NotYetApplied(exceptions.APIException):
    """504: the update is on the topic, but not in the profile yet."""

    status_code = HTTPStatus.GATEWAY_TIMEOUT
    default_detail = "The profile does not include this receipt yet. Try again."


class InvalidElements(exceptions.APIException):
    """400: some elements of an array are invalid, so none was produced."""

    status_code = HTTPStatus.BAD_REQUEST

    def __init__(self, errors: list[dict[str, Any]], count: int) -> None:
        invalid = "1 update is" if count == 1 else f"{count} updates are"
        super().__init__(f"{invalid} invalid; none were accepted.")
        self.errors = errors


class Unavailable(exceptions.APIException):
    """503: try again after a moment."""

    status_code = HTTPStatus.SERVICE_UNAVAILABLE

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.wait = 1


def problem(
    status: int, detail: str, headers: Mapping[str, str] | None = None, **members: Any
) -> HttpResponse:
    """A problem document; `title` is the status's own phrase."""
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return HttpResponse(
        json.dumps({**body, **members}, ensure_ascii=False),
        status=status,
        content_type=CONTENT_TYPE,
        headers=headers,
    )


def exception_handler(
    exception: Exception, context: dict[str, Any]
) -> HttpResponse | None:
    """DRF's hook: problems for what DRF knows, None (a 500) for anything else."""
    response = drf_exception_handler(exception, context)
    if response is None:
        return None
    headers = {name: response.headers[name] for name in _KEPT if name in response}
    if isinstance(exception, exceptions.ValidationError):
        detail = "The request is invalid; see `errors`."
        return problem(response.status_code, detail, headers, errors=exception.detail)
    if isinstance(exception, InvalidElements):
        detail = str(exception.detail)
        return problem(response.status_code, detail, headers, errors=exception.errors)
    return problem(response.status_code, _detail(exception, response), headers)


_KEPT = ("Allow", "Retry-After", "WWW-Authenticate")


def _detail(exception: Exception, response: Response) -> str:
    detail = getattr(exception, "detail", None) or response.data.get("detail", "")
    return str(detail)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler400: a foreign Host header, a malformed request."""
    if _is_page(request):
        return defaults.bad_request(request, exception)
    return problem(400, "The request is malformed, or its Host is not served here.")


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler403."""
    if _is_page(request):
        return defaults.permission_denied(request, exception)
    return problem(403, str(exception) or "You may not do this.")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler404."""
    if _is_page(request):
        return defaults.page_not_found(request, exception)
    return problem(404, "There is nothing at this address.")


def too_large(request: HttpRequest, detail: str) -> HttpResponse:
    """413, for pages and forms too."""
    if _is_page(request):
        return HttpResponse(f"<h1>Content Too Large</h1><p>{detail}</p>", status=413)
    return problem(413, detail)


def server_error(request: HttpRequest) -> HttpResponse:
    """Django's handler500."""
    if _is_page(request):
        return defaults.server_error(request)
    return problem(500, "The service failed; the fault is logged.")


def _is_page(request: HttpRequest) -> bool:
    return request.path.startswith(PAGES)
