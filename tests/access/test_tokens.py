"""Tokens: which ones count, whose keys judge them, and what happens without keys."""

from __future__ import annotations

import json
import time
from io import StringIO
from typing import Any

import jwt
import pytest
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st

from profiles.access import tokens
from profiles.access.tokens import InvalidToken, KeysUnavailable, ProviderKeys, Verifier
from tests import identity
from tests.fakes import Clock
from tests.identity import AUDIENCE, ISSUER, LOCAL_KEY


def local() -> Verifier:
    return Verifier(lambda _: LOCAL_KEY, (tokens.LOCAL_ALGORITHM,), ISSUER, AUDIENCE)


@pytest.fixture(scope="module")
def served():
    with identity.serving() as provider:
        yield provider


@pytest.fixture
def provider(served):
    """The provider as it is at the start: one key, well."""
    served.keys = {"first": identity.rsa_key("first")}
    served.answer = None
    served.asked = 0
    return served


@pytest.fixture
def verifier(provider):
    keys = ProviderKeys(provider.url)
    return Verifier(
        keys.get_signing_key_from_jwt, tokens.PROVIDER_ALGORITHMS, ISSUER, AUDIENCE
    )


# What counts


def test_a_token_tells_its_subject_and_scopes(verifier):
    token = verifier.verify(identity.token(scope="profiles:read other"))
    assert token.subject == "clinic-7"
    assert token.scopes == {"profiles:read", "other"}


def test_a_token_of_an_elliptic_curve_counts_too(provider, verifier):
    provider.keys["curve"] = identity.ec_key("curve")
    good = identity.token(identity.ec_key("curve"), "ES256", "curve")
    assert verifier.verify(good).subject == "clinic-7"


def test_without_a_scope_it_may_nothing(verifier):
    assert verifier.verify(identity.token(scope=None)).scopes == frozenset()


BAD: dict[str, dict[str, Any]] = {
    "expired": {"exp": int(time.time()) - 60},
    "not valid yet": {"nbf": int(time.time()) + 600},
    "of another audience": {"aud": "https://other.example/"},
    "of another issuer": {"iss": "https://evil.example/"},
    "without exp": {"exp": None},
    "without aud": {"aud": None},
    "without iss": {"iss": None},
    "without sub": {"sub": None},
    "with a scope that is no text": {"scope": ["profiles:read"]},
    "with an endless exp": {"exp": float("inf")},
}


@pytest.mark.parametrize("what", BAD)
def test_a_token_does_not_count(verifier, what):
    with pytest.raises(InvalidToken):
        verifier.verify(identity.token(**BAD[what]))


def test_a_foreign_key_does_not_count(verifier):
    with pytest.raises(InvalidToken):
        verifier.verify(identity.token(identity.rsa_key("foreign")))


def test_an_unsigned_token_does_not_count(verifier):
    for judge in (verifier, local()):
        with pytest.raises(InvalidToken):
            judge.verify(identity.unsigned())


def test_claims_under_another_signature_do_not_count(verifier):
    good = identity.token(scope="profiles:read")
    verifier.verify(good)
    with pytest.raises(InvalidToken):
        verifier.verify(identity.tampered(good, scope="profiles:write"))


def test_the_public_key_is_no_secret_to_sign_with(provider, verifier):
    """The old confusion: HS256 with the provider's public key as the secret."""
    modulus = json.loads(provider.key_set())["keys"][0]["n"]
    with pytest.raises(InvalidToken):
        verifier.verify(identity.token(modulus, "HS256"))


def test_a_provider_that_publishes_a_shared_secret_opens_nothing(provider, verifier):
    secret = {"kty": "oct", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}
    keys = {"keys": [{**secret, "kid": "first", "alg": "HS256", "use": "sig"}]}
    provider.answer = json.dumps(keys).encode()
    with pytest.raises(InvalidToken):
        verifier.verify(identity.token(LOCAL_KEY, "HS256"))


def test_a_local_key_takes_its_own_algorithm_alone():
    assert local().verify(identity.local_token()).subject == "clinic-7"
    other = jwt.encode(identity.claims(), LOCAL_KEY * 2, "HS512")
    for token in (other, identity.token()):
        with pytest.raises(InvalidToken):
            local().verify(token)


NESTED = "eyJhIjo" + "W1tb" * 2000 + ".e30.x"


@pytest.mark.parametrize(
    "text", ["", ".", "..", "a.b.c", "é.é.é", "x" * 9000, NESTED, "e30.e30."]
)
def test_what_is_no_token_does_not_count(verifier, text):
    for judge in (verifier, local()):
        with pytest.raises(InvalidToken):
            judge.verify(text)


@given(st.text(max_size=80), st.text("abcdefgABCDEFG012_-.", max_size=80))
def test_no_text_breaks_the_verifier(text, more):
    for attempt in (text, more, f"e30.{more}.{more}"):
        with pytest.raises(InvalidToken):
            local().verify(attempt)


def test_the_reason_quotes_nothing_of_the_token(verifier):
    for changes in BAD.values():
        with pytest.raises(InvalidToken) as refused:
            verifier.verify(identity.token(**{"secret": "Canary", **changes}))
        assert "Canary" not in str(refused.value)
        assert "example" not in str(refused.value)


# What is remembered


def test_a_token_that_counted_is_not_judged_again(provider, verifier):
    good = identity.token()
    verifier.verify(good)
    provider.keys = {}
    assert verifier.verify(good).subject == "clinic-7"


@pytest.fixture
def clock(monkeypatch):
    """The time that the verifier goes by."""
    clock = Clock()
    clock.now = time.time()
    monkeypatch.setattr(tokens, "time", clock)
    return clock


def test_a_token_is_judged_again_after_some_minutes(clock):
    key = LOCAL_KEY
    judge = Verifier(lambda _: key, (tokens.LOCAL_ALGORITHM,), ISSUER, AUDIENCE)
    good = identity.local_token(exp=int(clock.now) + 3600)
    judge.verify(good)
    key = LOCAL_KEY[::-1]
    clock.now += tokens.REMEMBERED_S - 1
    assert judge.verify(good).subject == "clinic-7"
    clock.now += 2
    with pytest.raises(InvalidToken):
        judge.verify(good)


def test_a_token_that_was_remembered_expires_all_the_same(monkeypatch):
    judge, good = local(), identity.local_token(exp=int(time.time()) + 60)
    judge.verify(good)
    clock = Clock()
    clock.now = time.time() + 61 + tokens.LEEWAY_S  # within REMEMBERED_S
    monkeypatch.setattr(tokens, "time", clock)
    monkeypatch.setattr("jwt.api_jwt.datetime", _Frozen(clock))
    with pytest.raises(InvalidToken):
        judge.verify(good)


class _Frozen:
    """Stands in for `datetime` where PyJWT reads the time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now(self, tz: object = None) -> _Frozen:
        return self

    def timestamp(self) -> float:
        return self._clock.now


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(tokens, "REMEMBERED", 3)
    judge = local()
    for number in range(10):
        judge.verify(identity.local_token(sub=str(number)))
    assert len(judge._known) == 3


# The provider's keys


def test_the_keys_are_asked_for_once(provider, verifier):
    for number in range(5):
        verifier.verify(identity.token(sub=str(number)))
    assert provider.asked == 1


def test_a_new_key_is_found_when_the_provider_rotates(provider):
    keys = ProviderKeys(provider.url)
    keys.get_signing_key("first")
    provider.keys["second"] = identity.rsa_key("second")
    keys.cooldown_duration = 0
    assert keys.get_signing_key("second").key_id == "second"


def test_unknown_keys_do_not_make_us_hammer_the_provider(provider, verifier):
    verifier.verify(identity.token())
    for number in range(20):
        with pytest.raises(InvalidToken):
            verifier.verify(identity.token(kid=f"unknown {number}"))
    assert provider.asked == 1


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b"{}", b'{"keys": []}'])
def test_a_provider_that_gives_no_keys_leaves_no_verdict(provider, verifier, answer):
    provider.answer = answer
    with pytest.raises(KeysUnavailable):
        verifier.verify(identity.token())


def test_a_provider_that_is_away_is_asked_again_after_a_pause(
    provider, verifier, monkeypatch
):
    clock = Clock()
    monkeypatch.setattr(tokens, "time", clock)
    provider.answer = b""
    for _ in range(5):
        with pytest.raises(KeysUnavailable):
            verifier.verify(identity.token())
    assert provider.asked == 1
    provider.answer = None
    clock.now += tokens.PROVIDER_PAUSE_S
    assert verifier.verify(identity.token()).subject == "clinic-7"


# The command


@pytest.fixture
def configured(settings):
    settings.JWT_ISSUER, settings.JWT_AUDIENCE = ISSUER, AUDIENCE
    settings.JWT_LOCAL_KEY = LOCAL_KEY


def issue(*arguments: str) -> str:
    out = StringIO()
    call_command("issue_token", *arguments, stdout=out)
    return out.getvalue().strip()


def test_an_issued_token_counts(configured):
    text = issue(
        *("--scope", "profiles:read", "--scope", "profiles:write"),
        *("--subject", "lab", "--hours", "1.5"),
    )
    token = local().verify(text)
    assert token.subject == "lab"
    assert token.scopes == {"profiles:read", "profiles:write"}
    assert token.expires == pytest.approx(time.time() + 5400, abs=60)


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf", "100000"])
def test_a_token_needs_hours_that_make_sense(configured, hours):
    with pytest.raises(CommandError, match="--hours"):
        issue("--scope", "profiles:read", "--subject", "lab", f"--hours={hours}")


def test_without_a_local_key_there_is_nothing_to_issue(settings):
    with pytest.raises(CommandError, match="JWT_LOCAL_KEY"):
        issue("--scope", "profiles:read", "--subject", "lab", "--hours", "1")
