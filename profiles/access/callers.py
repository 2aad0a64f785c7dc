"""Access: who may come in, and what they may do.

In: requests. Out: the caller, or a refusal. The API requires a bearer token with a
scope. The pages require a sign-in with the permission to view profiles. Development
requires neither, but serves only loopback peers (and DJANGO_OPEN_PEERS).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse
from django.utils.cache import add_never_cache_headers
from rest_framework.exceptions import APIException, Throttled
from rest_framework.permissions import BasePermission

from profiles.access import throttles, tokens

if TYPE_CHECKING:
    # DRF reads its settings, which name this module, while its views are imported.
    from rest_framework.request import Request
    from rest_framework.views import APIView

Handler = Callable[..., HttpResponse]

READ = "profiles:read"
WRITE = "profiles:write"
VIEW_PROFILES = "profiles.view_patientprofile"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, as the audit trail names it, and what they may do."""

    name: str
    scopes: frozenset[str]


OPEN = Caller("open", frozenset({READ, WRITE}))


class Unauthorized(APIException):
    """401: a missing or invalid token (RFC 6750)."""

    status_code = HTTPStatus.UNAUTHORIZED
    auth_header = "Bearer"


class NoToken(Unauthorized):
    """401: the client sent no token."""

    default_detail = "Send a bearer token: `Authorization: Bearer ...`."


class BadToken(Unauthorized):
    """401: the token is invalid."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Invalid token: {reason}.")
        self.auth_header = f'Bearer error="invalid_token", error_description="{reason}"'


class LacksScope(APIException):
    """403: the token is valid, but lacks the scope."""

    status_code = HTTPStatus.FORBIDDEN

    def __init__(self, scope: str) -> None:
        super().__init__(f"The token lacks the scope {scope}.")
        self.auth_header = f'Bearer error="insufficient_scope", scope="{scope}"'


class CannotVerify(APIException):
    """503: the token can't be verified now."""

    status_code = HTTPStatus.SERVICE_UNAVAILABLE
    wait = 1


MOST_HOSTS = 100
"""Most Host headers to remember: development serves any port."""

PROBES = ("/livez", "/readyz", "/metrics")


class OpenModeGuard:
    """Middleware: refuses foreign hosts, and in development foreign peers."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response
        self._served: set[str] = set()

    def __call__(self, request: HttpRequest) -> HttpResponse:
        self.check(request)
        return self.get_response(request)

    def check(self, request: HttpRequest) -> None:
        """Raises DisallowedHost or PermissionDenied."""
        if request.path_info not in PROBES:  # these are called by address
            self._require_served(request)
        if settings.DEVELOPMENT and not _is_local(request):
            raise PermissionDenied(
                "Development mode serves this machine only; name further networks in "
                "DJANGO_OPEN_PEERS."
            )

    def _require_served(self, request: HttpRequest) -> None:
        """Raises DisallowedHost. A Host that was allowed once is not checked again."""
        host = request.META.get("HTTP_HOST", "")
        if host not in self._served:
            request.get_host()
            if host and len(self._served) < MOST_HOSTS:
                self._served.add(host)


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


# The API


def admit(request: HttpRequest, scope: str) -> None:
    """Let in a request that has this scope, and set its `caller`.

    Raises Unauthorized, LacksScope, Throttled or CannotVerify.
    """
    try:
        caller = _bearer(request)
    except Unauthorized:
        _throttle(request, OPEN)
        raise
    _throttle(request, caller)
    if scope not in caller.scopes:
        raise LacksScope(scope)
    _remember(request, caller)


def is_known(request: HttpRequest) -> bool:
    """Whether `admit` verifies no signature and fetches no key: it does not take long."""
    text = _token(request)
    verifier = tokens.verifier()
    return text is None or verifier is None or verifier.is_known(text)


class MayRead(BasePermission):
    """DRF permission: `admit` for the views that DRF dispatches, which only read."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        admit(request._request, READ)
        return True


def caller(request: HttpRequest | Request) -> Caller:
    """Who sent an admitted request."""
    found: Caller = request.caller  # type: ignore[union-attr]
    return found


def may_read(request: HttpRequest) -> bool:
    """Whether the caller of an admitted request may read profiles."""
    return READ in caller(request).scopes


def address(request: HttpRequest | Request) -> str:
    """The client's address: behind a trusted proxy, the last hop that it reports."""
    hops = request.META.get("HTTP_X_FORWARDED_FOR")
    if hops and settings.TRUST_PROXY:
        return str(hops).rpartition(",")[2].strip()
    return str(request.META["REMOTE_ADDR"])


def _bearer(request: HttpRequest) -> Caller:
    """The caller that the token names. A token is verified in development too."""
    text = _token(request)
    if text is None:
        if settings.DEVELOPMENT:
            return OPEN
        raise NoToken
    verifier = tokens.verifier()
    if verifier is None:
        raise BadToken("this server has no key: set JWT_JWKS_URL or JWT_LOCAL_KEY")
    try:
        token = verifier.verify(text)
    except tokens.InvalidToken as error:
        raise BadToken(str(error)) from None
    except tokens.KeysUnavailable as error:
        raise CannotVerify(f"The token can't be verified: {error}.") from None
    return Caller(f"token:{token.subject}", token.scopes)


def _token(request: HttpRequest) -> str | None:
    scheme, _, text = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    return text.strip() if scheme.lower() == "bearer" else None


def _throttle(request: HttpRequest, caller: Caller) -> None:
    """Count the request by the caller's name, or else by address; raises Throttled."""
    throttle = throttles.throttle()
    if throttle is None:
        return
    client = address(request) if caller is OPEN else caller.name
    if wait_s := throttle.wait_s(client):
        raise Throttled(wait_s)


# The pages


def page(view: Handler) -> Handler:
    """Decorate a page: requires a sign-in with the permission to view profiles.

    Caches must not keep it: the next person at this browser may lack the permission.
    """

    @wraps(view)
    def door(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not settings.DEVELOPMENT and not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path())
        _remember(request, _visitor(request))
        response = view(request, *args, **kwargs)
        add_never_cache_headers(response)
        return response

    return door


def _visitor(request: HttpRequest) -> Caller:
    if settings.DEVELOPMENT:
        return OPEN
    if not request.user.has_perm(VIEW_PROFILES):
        raise PermissionDenied
    return Caller(f"user:{request.user.get_username()}", frozenset({READ}))


# Peers


def _is_local(request: HttpRequest) -> bool:
    """Whether a request comes from this machine, through whatever proxies on it."""
    hops = request.META.get("HTTP_X_FORWARDED_FOR")
    return _is_open_to(request.META["REMOTE_ADDR"]) and (
        not hops or all(_is_open_to(hop.strip()) for hop in hops.split(","))
    )


_address = lru_cache(ipaddress.ip_address)


def _is_open_to(peer: str) -> bool:
    if peer == "127.0.0.1":  # the usual one; parsing takes longer
        return True
    try:
        address = _address(peer)
    except ValueError:
        return False
    return any(address in network for network in settings.OPEN_PEERS)


def _remember(request: HttpRequest, caller: Caller) -> None:
    request.caller = caller  # type: ignore[attr-defined]
