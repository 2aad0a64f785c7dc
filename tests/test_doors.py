"""The doors: every address, and who gets through it. `pytest -s` prints the table."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from profiles.access import tokens
from profiles.api import posting
from profiles.kafka import topics
from tests import identity
from tests.access.test_audit_trail import FakePublisher, store
from tests.fakes import TOPIC

pytestmark = pytest.mark.usefixtures("either_way", "db", "dynamodb", "world")

WRITE, READ, PAGE, SIGN_IN = "write", "read", "page", "sign-in"
PUBLIC, PROBE = "public", "probe"

# What each address asks of its visitors, and what to ask for there.
DOORS: dict[str, list[tuple[str, str, str]]] = {
    "": [(PUBLIC, "GET", "/")],
    "profiles": [(PUBLIC, "GET", "/profiles")],
    "pipeline": [(PUBLIC, "GET", "/pipeline")],
    "admin": [(PUBLIC, "GET", "/admin")],
    "livez": [(PROBE, "GET", "/livez")],
    "readyz": [(PROBE, "GET", "/readyz")],
    "metrics": [(PROBE, "GET", "/metrics")],
    "api/schema": [(PUBLIC, "GET", "/api/schema")],
    "api/docs": [(PUBLIC, "GET", "/api/docs")],
    "patientprofile": [
        (WRITE, "POST", "/patientprofile"),
        (READ, "GET", "/patientprofile"),
    ],
    "patientprofile/<path:patient_id>": [(READ, "GET", "/patientprofile/1")],
    "profiles/": [(PAGE, "GET", "/profiles/")],
    "^profiles/(?P<patient_id>.+)/$": [(PAGE, "GET", "/profiles/1/")],
    "pipeline/": [(PAGE, "GET", "/pipeline/")],
    "admin/": [(SIGN_IN, "GET", "/admin/")],
}


def routes() -> list[str]:
    """Every address that is served; the admin's own are behind its one door."""

    def walk(patterns: list[Any]) -> list[str]:
        found: list[str] = []
        for entry in patterns:
            route = str(entry.pattern)
            if isinstance(entry, URLPattern) or route == "admin/":
                found.append(route)
            elif isinstance(entry, URLResolver):
                found += walk(entry.url_patterns)
        return found

    return walk(get_resolver().url_patterns)


ENDPOINTS = [door for route in routes() for door in DOORS.get(route, [])]


def test_every_address_has_a_door():
    assert {*routes()} <= DOORS.keys()


@pytest.fixture
def world(monkeypatch):
    """A Kafka that takes everything."""

    class Watched:
        def current(self) -> topics.Topic:
            return TOPIC

    monkeypatch.setattr(posting, "publisher", FakePublisher)
    monkeypatch.setattr(topics, "watch", Watched)


@pytest.fixture(scope="module")
def provider():
    with identity.serving() as provider:
        yield provider


@pytest.fixture
def production(settings, provider):
    """Closed doors, and an identity provider."""
    settings.DEVELOPMENT = False
    settings.JWT_ISSUER, settings.JWT_AUDIENCE = identity.ISSUER, identity.AUDIENCE
    settings.JWT_JWKS_URL = provider.url
    tokens.verifier.cache_clear()
    yield
    tokens.verifier.cache_clear()


def visit(method: str, path: str, client: Client | None = None, **options: Any) -> int:
    client = client or Client(raise_request_exception=False)
    if method == "POST":
        options |= {"data": '{"PatientId": "1"}', "content_type": "application/json"}
    return int(client.generic(method, path, **options).status_code)


def bearing(token: str) -> dict[str, Any]:
    return {"headers": {"authorization": f"Bearer {token}"}}


def other(kind: str) -> str:
    """The scope that is not asked for here."""
    return "profiles:read" if kind == WRITE else "profiles:write"


VISITORS: dict[str, Callable[[str], dict[str, Any]]] = {
    "no token": lambda kind: {},
    "wrong scope": lambda kind: bearing(identity.token(scope=other(kind))),
    "expired": lambda kind: bearing(identity.token(exp=int(time.time()) - 60)),
    "wrong audience": lambda kind: bearing(identity.token(aud="https://other/")),
    "wrong issuer": lambda kind: bearing(identity.token(iss="https://evil/")),
    "alg:none": lambda kind: bearing(identity.unsigned()),
    "foreign key": lambda kind: bearing(identity.token(identity.rsa_key("foreign"))),
    "HS256": lambda kind: bearing(identity.token(identity.LOCAL_KEY, "HS256")),
    "tampered": lambda kind: bearing(
        identity.tampered(identity.token(scope=other(kind)))
    ),
    "foreign Host": lambda kind: {"headers": {"host": "evil.example"}},
    "good token": lambda kind: bearing(identity.token()),
}
IN = "in"
UNKNOWN = {WRITE: 401, READ: 401, PAGE: 302, SIGN_IN: 302, PUBLIC: IN, PROBE: IN}
ELSEWHERE = {**dict.fromkeys(UNKNOWN, 400), PROBE: IN}  # probes ask by address
EXPECTED = {
    "wrong scope": {**UNKNOWN, WRITE: 403, READ: 403},
    "foreign Host": ELSEWHERE,
    "good token": {**UNKNOWN, WRITE: IN, READ: IN},
}
LEAD_ON = {"GET /", "GET /profiles", "GET /pipeline", "GET /admin"}
TABLE: dict[str, dict[str, int]] = {}


@pytest.fixture(scope="module", autouse=True)
def _printed():
    """The table, once every door was tried."""
    yield
    visitors = [*VISITORS, *OTHERS]
    width = max(len(method + path) for _, method, path in ENDPOINTS) + 1
    sys.stdout.write("\n\n")
    for number, visitor in enumerate(visitors):
        sys.stdout.write(f"{' ' * width} {' |  ' * number} {visitor}\n")
    for _, method, path in ENDPOINTS:
        cells = [TABLE.get(visitor, {}).get(f"{method} {path}") for visitor in visitors]
        told = " ".join(f"{cell or '-':>3}" for cell in cells)
        sys.stdout.write(f"{method + ' ' + path:<{width}} {told}\n")


def judge(visitor: str, name: str, status: int, expected: object) -> None:
    TABLE.setdefault(visitor, {})[name] = status
    shown = 302 if name in LEAD_ON else 200
    came_in = status in (200, 202, shown)
    assert came_in if expected == IN else status == expected


endpoints = pytest.mark.parametrize(
    ("kind", "method", "path"), ENDPOINTS, ids=lambda value: str(value)
)


@endpoints
@pytest.mark.parametrize("visitor", VISITORS)
def test_production(production, dynamodb, visitor, kind, method, path):
    store(dynamodb, "1")
    expected = EXPECTED.get(visitor, UNKNOWN)[kind]
    status = visit(method, path, **VISITORS[visitor](kind))
    judge(visitor, f"{method} {path}", status, expected)


OTHERS = [
    "signed in, not allowed",
    "signed in, allowed",
    "open mode, this machine",
    "open mode, from outside",
    "open mode, by a proxy",
    "open mode, foreign Host",
]


@endpoints
@pytest.mark.parametrize("allowed", [False, True])
def test_people(production, dynamodb, allowed, kind, method, path):
    store(dynamodb, "1")
    ada = User.objects.create_user("ada", is_staff=True)
    if allowed:
        of_profiles = Permission.objects.get(codename="view_patientprofile")
        ada.user_permissions.add(of_profiles)
    client = Client(raise_request_exception=False)
    client.force_login(ada)
    expected = {**UNKNOWN, PAGE: IN if allowed else 403, SIGN_IN: IN}
    status = visit(method, path, client)
    judge(OTHERS[allowed], f"{method} {path}", status, expected[kind])


FROM: dict[str, dict[str, Any]] = {
    "open mode, this machine": {},
    "open mode, from outside": {"REMOTE_ADDR": "10.0.0.5"},
    "open mode, by a proxy": {"headers": {"x-forwarded-for": "10.0.0.5"}},
    "open mode, foreign Host": {"headers": {"host": "evil.example"}},
}
OPEN_MODE = {
    "open mode, this machine": {**dict.fromkeys(UNKNOWN, IN), SIGN_IN: 302},
    "open mode, foreign Host": ELSEWHERE,
}
OUTSIDE = dict.fromkeys(UNKNOWN, 403)


@endpoints
@pytest.mark.parametrize("visitor", FROM)
def test_development(dynamodb, visitor, kind, method, path):
    store(dynamodb, "1")
    expected = OPEN_MODE.get(visitor, OUTSIDE)[kind]
    status = visit(method, path, **FROM[visitor])
    judge(visitor, f"{method} {path}", status, expected)
