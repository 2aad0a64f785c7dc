"""Access: who may come in.

In: requests. Out: passage, or a refusal. In development everything is open, to
loopback peers (and DJANGO_OPEN_PEERS) only; in production the API is closed to all,
and the pages to all but signed-in staff.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING

from django.conf import settings
from django.contrib.auth.decorators import user_passes_test
from django.core.exceptions import PermissionDenied
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import NotAuthenticated
from rest_framework.permissions import BasePermission

if TYPE_CHECKING:
    # DRF reads its settings, which name this module, while its views are imported.
    from rest_framework.request import Request
    from rest_framework.views import APIView

Handler = Callable[..., HttpResponse]


class OpenModeGuard:
    """Middleware: open doors are for peers on this machine alone."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.get_host()
        if settings.DEVELOPMENT and not _is_open_to(request.META["REMOTE_ADDR"]):
            raise PermissionDenied(
                "Development mode serves this machine only; name further networks in "
                "DJANGO_OPEN_PEERS."
            )
        return self.get_response(request)


def database_connections(get_response: Handler) -> Handler:
    """Middleware: ends database connections that are broken or too old.

    Django does so around every request; here only around those that may use one.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        close_old_connections()
        try:
            return get_response(request)
        finally:
            close_old_connections()

    return middleware


class Bearer(BaseAuthentication):
    """DRF authentication: no token is known yet; a refusal asks for one (RFC 6750)."""

    def authenticate(self, request: Request) -> None:
        return None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class OpenInDevelopment(BasePermission):
    """DRF permission: the API has no sign-in yet, so production answers 401."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return bool(settings.DEVELOPMENT)


def require_open(request: HttpRequest) -> None:
    """What the two classes above do, for a view that skips DRF's dispatch."""
    if not settings.DEVELOPMENT:
        refusal = NotAuthenticated()
        refusal.auth_header = "Bearer"  # type: ignore[attr-defined]
        raise refusal


def may_read(request: HttpRequest) -> bool:
    """Whether a profile may be shown to whoever sent this request."""
    return bool(settings.DEVELOPMENT)


def page(view: Handler) -> Handler:
    """Decorate a page: in production it is for signed-in staff."""
    if settings.DEVELOPMENT:
        return view
    return user_passes_test(lambda user: user.is_active and user.is_staff)(view)


def _is_open_to(peer: str) -> bool:
    address = ipaddress.ip_address(peer)
    return any(address in network for network in settings.OPEN_PEERS)
