"""Access: open mode stays at home, people need the permission, browsers are held to it.

What each address asks of whom is in `test_doors.py`.
"""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.test import Client

from profiles.access import callers, throttles, tokens
from profiles.access.throttles import Throttle
from profiles.dynamodb import reader
from profiles.dynamodb.writer import TableWriter
from profiles.kafka import topics
from tests import identity
from tests.fakes import OURS, TOPIC, update_at

JSON = "application/json"

pytestmark = pytest.mark.usefixtures("either_way")


def ask(path="/livez", **options):
    return Client(raise_request_exception=False).get(path, **options)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.fixture
def production(settings):
    """Closed doors, and a local key."""
    settings.DEVELOPMENT = False
    settings.JWT_ISSUER, settings.JWT_AUDIENCE = identity.ISSUER, identity.AUDIENCE
    settings.JWT_LOCAL_KEY = identity.LOCAL_KEY
    tokens.verifier.cache_clear()
    yield settings
    tokens.verifier.cache_clear()


# Open mode


@pytest.mark.parametrize(
    "hops", ["10.0.0.5", "127.0.0.1, 8.8.8.8", "8.8.8.8,127.0.0.1", "unknown", "::2"]
)
def test_a_proxy_on_this_machine_makes_nobody_local(hops):
    assert ask(headers={"x-forwarded-for": hops}).status_code == 403


@pytest.mark.parametrize("hops", ["127.0.0.1", "::1, 127.0.0.1", ""])
def test_a_proxy_for_this_machine_is_let_in(hops):
    assert ask(headers={"x-forwarded-for": hops}).status_code == 200


def test_a_token_that_is_sent_counts_in_development_too(dynamodb, settings):
    assert ask("/patientprofile").status_code == 200
    settings.JWT_LOCAL_KEY = identity.LOCAL_KEY
    settings.JWT_ISSUER, settings.JWT_AUDIENCE = identity.ISSUER, identity.AUDIENCE
    tokens.verifier.cache_clear()
    good = identity.local_token(scope="profiles:write")
    answers = [ask("/patientprofile", headers=bearer(token)) for token in ("x", good)]
    tokens.verifier.cache_clear()
    assert [answer.status_code for answer in answers] == [401, 403]


# Where from


@pytest.mark.parametrize(
    ("trust", "hops", "address"),
    [
        (False, "8.8.8.8", "127.0.0.1"),
        (True, "8.8.8.8", "8.8.8.8"),
        (True, "6.6.6.6, 8.8.8.8", "8.8.8.8"),
        (True, "", "127.0.0.1"),
    ],
)
def test_the_hop_that_our_proxy_saw_is_where_a_request_comes_from(
    rf, settings, trust, hops, address
):
    settings.TRUST_PROXY = trust
    request = rf.get("/", headers={"x-forwarded-for": hops} if hops else {})
    assert callers.address(request) == address


# Refusals (RFC 6750)


def test_who_brings_nothing_learns_what_to_bring(production):
    answer = ask("/patientprofile")
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == "Bearer"
    assert answer["Content-Type"] == "application/problem+json"


def test_a_token_that_does_not_count_is_told_why(production):
    answer = ask("/patientprofile", headers=bearer(identity.local_token(exp=1)))
    assert answer.status_code == 401
    told = 'Bearer error="invalid_token", error_description="it has expired"'
    assert answer["WWW-Authenticate"] == told


def test_a_missing_scope_is_named(production):
    token = identity.local_token(scope="profiles:write")
    answer = ask("/patientprofile", headers=bearer(token))
    assert answer.status_code == 403
    told = 'Bearer error="insufficient_scope", scope="profiles:read"'
    assert answer["WWW-Authenticate"] == told


def test_without_a_key_production_says_what_is_missing(production):
    production.JWT_LOCAL_KEY = ""
    answer = ask("/patientprofile", headers=bearer(identity.local_token()))
    assert answer.status_code == 401
    assert "JWT_JWKS_URL or JWT_LOCAL_KEY" in answer.json()["detail"]


def test_a_provider_that_is_away_is_no_verdict_but_503(production):
    production.JWT_LOCAL_KEY, production.JWT_JWKS_URL = "", "http://127.0.0.1:1/keys"
    for answer in (
        ask("/patientprofile", headers=bearer(identity.token())),
        Client().post("/patientprofile", "{}", JSON, headers=bearer(identity.token())),
    ):
        assert answer.status_code == 503
        assert answer["Retry-After"] == "1"


# Throttling


@pytest.fixture
def throttled(monkeypatch):
    throttle = Throttle(2, 60.0)
    monkeypatch.setattr(throttles, "throttle", lambda: throttle)


def test_a_client_that_asks_too_often_is_told_when_to_come_back(dynamodb, throttled):
    answers = [ask("/patientprofile") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2]["Retry-After"]) <= 30
    assert answers[2]["Content-Type"] == "application/problem+json"


def test_posts_are_counted_with_the_rest(dynamodb, throttled):
    assert ask("/patientprofile").status_code == 200
    answers = [Client().post("/patientprofile", "{}", JSON) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [400, 429]
    assert answers[1]["Retry-After"]


def test_clients_are_told_apart_by_their_token(production, dynamodb, throttled):
    for subject in ("a", "b"):
        headers = bearer(identity.local_token(sub=subject))
        answers = [ask("/patientprofile", headers=headers) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]


def test_guessing_tokens_is_throttled_by_address(production, throttled):
    answers = [ask("/patientprofile", headers=bearer(f"guess {n}")) for n in range(3)]
    assert [answer.status_code for answer in answers] == [401, 401, 429]


# Waiting


@pytest.mark.parametrize(
    ("scope", "status"),
    [("profiles:write", 202), ("profiles:write profiles:read", 200)],
)
def test_who_may_not_read_is_shown_no_profile_for_waiting(
    production, monkeypatch, scope, status
):
    from profiles.api import posting
    from tests.access.test_audit_trail import FakePublisher

    monkeypatch.setattr(posting, "publisher", FakePublisher)
    item = {"PatientId": {"S": "1"}, "_fence:topic-1:3": {"N": "41"}}
    monkeypatch.setattr(reader.TableReader, "await_receipt", lambda *_: item)
    monkeypatch.setattr(topics, "watch", lambda: topics.Watch(lambda: TOPIC, 4))
    monkeypatch.setattr("profiles.dynamodb.client.connect", lambda: None)
    reader.profiles.cache_clear()
    headers = {**bearer(identity.local_token(scope=scope)), "prefer": "wait=1"}
    body = '{"PatientId": "1"}'
    answer = Client().post("/patientprofile", body, JSON, headers=headers)
    reader.profiles.cache_clear()
    assert answer.status_code == status


# People


@pytest.fixture
def person(db):
    """Someone who signed in, with the permission or without."""

    def person(may_view: bool) -> Client:
        user = User.objects.create_user("ada", is_staff=True)
        if may_view:
            of_profiles = Permission.objects.get(codename="view_patientprofile")
            user.user_permissions.add(of_profiles)
        client = Client()
        client.force_login(user)
        return client

    return person


def test_with_the_permission_one_sees_the_pages(production, dynamodb, person, capfd):
    answer = person(may_view=True).get("/profiles/")
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]


def test_the_trail_names_the_person(production, dynamodb, person, capfd):
    TableWriter(dynamodb, "patient-profile").apply([update_at(0, "7")], OURS)
    person(may_view=True).get("/profiles/7/")
    assert '"who":"user:ada"' in capfd.readouterr().out


def test_without_the_permission_one_is_refused_and_not_sent_in_circles(
    production, dynamodb, person
):
    answer = person(may_view=False).get("/profiles/")
    assert answer.status_code == 403
    assert answer["Content-Type"].startswith("text/html")


def test_a_sign_in_opens_no_api(production, dynamodb, person):
    client = person(may_view=True)
    assert client.get("/patientprofile").status_code == 401
    assert client.post("/patientprofile", "{}", JSON).status_code == 401


def test_the_permission_needs_no_table(db):
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)
    assert Permission.objects.filter(codename="view_patientprofile").count() == 1


# Browsers


def test_a_page_runs_and_shows_what_is_ours_alone(dynamodb):
    answer = ask("/profiles/")
    policy = answer["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert answer["X-Frame-Options"] == "DENY"
    assert answer["Referrer-Policy"] == "same-origin"
    assert answer["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/profiles/", "/admin/login/", "/api/docs"])
def test_a_page_keeps_its_own_policy(db, dynamodb, path):
    """No script and no style of a page is refused by the policy it is sent with."""
    answer = ask(path)
    assert answer.status_code == 200
    content, policy = answer.content.decode(), answer["Content-Security-Policy"]
    assert not re.search(r"<[^>]+\son\w+=", content)
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", content)
    inline = re.findall(
        r"<script(?![^>]*\b(?:src|type=\"application/json\"))[^>]*>", content
    )
    assert all("nonce=" in script for script in inline)
    if "'unsafe-inline'" not in policy:
        assert "style=" not in content
        assert all("nonce=" in style for style in re.findall("<style[^>]*>", content))


def test_a_foreign_host_is_refused_however_often_ours_was_served():
    client = Client()

    def answer(host: str) -> int:
        """To an update, which passes no middleware of Django's that looks too."""
        headers = {"host": host}
        return client.post(
            "/patientprofile", "x", "text/x", headers=headers
        ).status_code

    hosts = ["localhost", "localhost", "evil.example", "localhost", "evil.example"]
    assert [answer(host) for host in hosts] == [415, 415, 400, 415, 400]
