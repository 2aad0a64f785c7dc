"""Tokens: bearer JWTs.

In: the text of a token. Out: its subject and scopes, or why it is invalid. The settings
choose the key: the identity provider's keys or a local one. Knows no request.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from threading import Lock
from typing import Any

import jwt
from django.conf import settings

LOCAL_ALGORITHM = "HS256"
PROVIDER_ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512")
REMEMBERED = 10_000
REMEMBERED_S = 300.0
"""How long a withdrawn key of the provider may still be accepted."""
LONGEST = 8192
LEEWAY_S = 10
PROVIDER_TIMEOUT_S = 2.0
PROVIDER_PAUSE_S = 5.0

Key = jwt.PyJWK | str


class InvalidToken(Exception):
    """The token is invalid: the client needs another one."""


class KeysUnavailable(Exception):
    """Tokens can't be verified now: try again later."""


@dataclass(frozen=True, slots=True)
class Token:
    """A verified token's subject, scopes and expiry (seconds since the epoch)."""

    subject: str
    scopes: frozenset[str]
    expires: float


class Verifier:
    """Verifies tokens of one issuer for one audience.

    Remembers valid tokens by their hash, for REMEMBERED_S or until they expire.
    """

    def __init__(
        self,
        key: Callable[[str], Key],
        algorithms: tuple[str, ...],
        issuer: str,
        audience: str,
    ) -> None:
        self._key = key
        self._algorithms = algorithms
        self._issuer = issuer
        self._audience = audience
        self._known: dict[bytes, tuple[Token, float]] = {}
        self._lock = Lock()

    def verify(self, text: str) -> Token:
        """The verified token. Raises InvalidToken or KeysUnavailable."""
        digest = _digest(text)
        if known := self._remembered(digest):
            return known
        token = _token(self._claims(text))
        self._remember(digest, token)
        return token

    def is_known(self, text: str) -> bool:
        """Whether `verify` remembers the token."""
        return self._remembered(_digest(text)) is not None

    def _claims(self, text: str) -> dict[str, Any]:
        if len(text) > LONGEST:
            raise InvalidToken("it is too long")
        try:
            return jwt.decode(
                text,
                self._key(text),
                algorithms=self._algorithms,
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (jwt.PyJWTError, ArithmeticError, RecursionError, ValueError) as error:
            raise InvalidToken(_reason(error)) from None

    def _remembered(self, digest: bytes) -> Token | None:
        known, until = self._known.get(digest, (None, 0.0))
        return known if time.time() < until else None

    def _remember(self, digest: bytes, token: Token) -> None:
        until = min(token.expires, time.time() + REMEMBERED_S)
        with self._lock:
            self._known.pop(digest, None)
            while len(self._known) >= REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[digest] = token, until


class ProviderKeys(jwt.PyJWKClient):
    """The identity provider's keys: fetched every 5 minutes, and for an unknown key at
    most every 30 s. After a failure the next attempt comes after PROVIDER_PAUSE_S.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, timeout=PROVIDER_TIMEOUT_S)
        self._retry_at = 0.0

    def fetch_data(self) -> Any:
        """The key set. Raises KeysUnavailable."""
        if time.monotonic() < self._retry_at:
            raise KeysUnavailable("the identity provider's keys can't be fetched")
        try:
            return super().fetch_data()
        except (jwt.PyJWTError, OSError, ValueError):
            self._retry_at = time.monotonic() + PROVIDER_PAUSE_S
            raise KeysUnavailable(
                "the identity provider's keys can't be fetched"
            ) from None


@cache
def verifier() -> Verifier | None:
    """This process's verifier; None where no key is configured."""
    issuer, audience = settings.JWT_ISSUER, settings.JWT_AUDIENCE
    if settings.JWT_JWKS_URL:
        keys = ProviderKeys(settings.JWT_JWKS_URL)
        return Verifier(
            keys.get_signing_key_from_jwt, PROVIDER_ALGORITHMS, issuer, audience
        )
    if settings.JWT_LOCAL_KEY:
        return Verifier(
            lambda text: settings.JWT_LOCAL_KEY, (LOCAL_ALGORITHM,), issuer, audience
        )
    return None


def issue(subject: str, scopes: list[str], hours: float) -> str:
    """A token signed with the local key."""
    now = int(time.time())
    claims = {
        "iss": settings.JWT_ISSUER,
        "aud": settings.JWT_AUDIENCE,
        "sub": subject,
        "scope": " ".join(scopes),
        "iat": now,
        "exp": now + int(hours * 3600),
    }
    return jwt.encode(claims, settings.JWT_LOCAL_KEY, LOCAL_ALGORITHM)


def _digest(text: str) -> bytes:
    return sha256(text.encode()).digest()


def _token(claims: dict[str, Any]) -> Token:
    scope = claims.get("scope", "")
    if not isinstance(scope, str):
        raise InvalidToken("its scope is not a string")
    return Token(claims["sub"], frozenset(scope.split()), float(claims["exp"]))


_REASONS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "it has expired",
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.InvalidIssuerError: "it is from another issuer",
    jwt.MissingRequiredClaimError: "it lacks a claim: exp, iss, aud and sub are required",
}


def _reason(error: Exception) -> str:
    """Our own words: the library's may quote the token."""
    return _REASONS.get(type(error), "it is malformed, or its signature is wrong")
