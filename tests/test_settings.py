"""Settings: a bad value stops the start and is named; production is closed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRODUCTION = {
    "DJANGO_DEBUG": "0",
    "DJANGO_SECRET_KEY": "0123456789" * 5,
    "DJANGO_ALLOWED_HOSTS": "profiles.example.org",
    "AWS_DEFAULT_REGION": "eu-central-1",
}


def python(program: str, **environ: str):
    """Run a program in a process with no variables of ours but these."""
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def load(monkeypatch):
    """Loads the settings anew with these variables; tells what they came to."""

    def load(**environ: str):
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        namespace: dict[str, object] = {
            "__file__": str(ROOT / "patientsite/settings.py")
        }
        exec((ROOT / "patientsite/settings.py").read_text(), namespace)  # noqa: S102
        return namespace

    return load


BAD = {
    "DJANGO_DEBUG": ["maybe", "2"],
    "DJANGO_OPEN_PEERS": ["everywhere", "10.0.0.1/8", "10.0.0.0/33"],
    "DJANGO_TRUST_PROXY": ["yes please"],
    "JWT_JWKS_URL": ["http://idp.example/keys", "file:///etc/passwd", "https://", "x"],
    "JWT_LOCAL_KEY": ["short", "0123456789" * 3, "k" * 64],
    "THROTTLE_RATE": ["100", "0/s", "-1/s", "x/s", "1/day", "1.5/s", "100/"],
    "KAFKA_CONFIG": [
        "acks=1",
        "[]",
        '"x"',
        "{",
        '{"acks": 1}',
        '{"enable.idempotence": false}',
        '{"partitioner": "random"}',
        '{"enable.auto.commit": true}',
        '{"auto.offset.reset": "latest"}',
        '{"group.id": "other"}',
        '{"bootstrap.servers": "elsewhere:9092"}',
        '{"metadata.broker.list": "elsewhere:9092"}',
        '{"transactional.id": "x"}',
        '{"default.topic.config": {"partitioner": "random"}}',
    ],
    "KAFKA_GROUP_PROTOCOL": ["new"],
    "KAFKA_PARTITIONS": ["0", "-1", "12.5", "many", "١٢"],
    "KAFKA_RETENTION_MS": ["forever"],
    "PORT": ["http", "0"],
    "WEB_THREADS": ["0"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in BAD for value in BAD[name]]
)
def test_a_bad_value_stops_the_start_and_names_its_variable(load, name, value):
    with pytest.raises(Exception, match=rf"^{name} is not valid: "):
        load(**{name: value})


def test_what_is_fixed_in_kafka_config_is_named(load):
    with pytest.raises(Exception, match="acks, partitioner is fixed"):
        load(KAFKA_CONFIG='{"partitioner": "random", "acks": 0, "client.id": "x"}')


def test_a_fresh_checkout_runs_with_no_variable_set(load):
    loaded = load()
    assert loaded["KAFKA_BOOTSTRAP_SERVERS"] == "127.0.0.1:9092"
    assert loaded["KAFKA_TOPIC"] == "patient-profile"
    assert loaded["KAFKA_PARTITIONS"] == 12
    assert loaded["DYNAMODB_ENDPOINT_URL"] == "http://127.0.0.1:4566"
    assert loaded["DYNAMODB_TABLE"] == "patient-profile"
    assert loaded["PORT"] == 3000


def test_msk_without_its_extra_stops_the_start_and_says_what_to_install():
    program = (
        "import sys; sys.modules['aws_msk_iam_sasl_signer'] = None; "
        "import patientsite.settings"
    )
    ended = python(program, DJANGO_DEBUG="1", KAFKA_MSK_IAM_REGION="eu-central-1")
    assert "KAFKA_MSK_IAM_REGION is not valid: install aws-msk-iam" in ended.stderr


def test_the_group_belongs_to_the_table(load):
    assert load(DYNAMODB_TABLE="restored")["KAFKA_GROUP_ID"] == "profiles-restored"


def test_an_empty_endpoint_means_aws(load):
    assert load(DYNAMODB_ENDPOINT_URL="")["DYNAMODB_ENDPOINT_URL"] == ""


@pytest.mark.parametrize("variable", ["AWS_DEFAULT_REGION", "AWS_REGION"])
def test_the_region_is_found_in_either_variable(load, variable):
    environ = {**PRODUCTION, "AWS_DEFAULT_REGION": "", variable: "eu-west-1"}
    assert load(**environ)["DYNAMODB_REGION"] == "eu-west-1"


def test_production_at_an_endpoint_of_its_own_needs_no_region(load):
    endpoint = {"DYNAMODB_ENDPOINT_URL": "http://dynamodb:8000"}
    assert load(**{**PRODUCTION, **endpoint, "AWS_DEFAULT_REGION": ""})


def test_an_unknown_aws_profile_stops_the_start(load):
    with pytest.raises(Exception, match=r"^AWS_PROFILE is not valid: "):
        load(AWS_PROFILE="nobody")


@pytest.mark.parametrize("debug", ["0", "1"])
def test_django_debug_pages_are_never_on(load, debug):
    assert load(**{**PRODUCTION, "DJANGO_DEBUG": debug})["DEBUG"] is False


def test_production_opens_to_no_peer_and_no_local_endpoint(load):
    loaded = load(**PRODUCTION)
    assert loaded["OPEN_PEERS"] == []
    assert loaded["DYNAMODB_ENDPOINT_URL"] == ""
    assert loaded["ALLOWED_HOSTS"] == ["profiles.example.org"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DJANGO_OPEN_PEERS", "10.0.0.0/8"),
        ("DJANGO_SECRET_KEY", "0123456789" * 4),
        ("DJANGO_SECRET_KEY", "k" * 50),
        ("DJANGO_SECRET_KEY", "development-only-" + "0" * 40),
        ("DJANGO_SECRET_KEY", ""),
        ("AWS_DEFAULT_REGION", ""),
        ("DJANGO_ALLOWED_HOSTS", ""),
        ("DJANGO_ALLOWED_HOSTS", "*"),
        ("DJANGO_ALLOWED_HOSTS", "profiles.example.org, *"),
        ("DJANGO_ALLOWED_HOSTS", "*.example.org"),
        ("DJANGO_ALLOWED_HOSTS", ".example.org"),
        ("DJANGO_ALLOWED_HOSTS", "profiles.example.org, .example.org"),
    ],
    ids=repr,
)
def test_production_refuses_to_start_half_configured(load, name, value):
    with pytest.raises(Exception, match=rf"^{name} is not valid: production needs"):
        load(**{**PRODUCTION, name: value})


def test_production_logs_json_and_development_lines(load):
    def format_of(loaded):
        return loaded["LOGGING"]["handlers"]["stderr"]["formatter"]

    assert format_of(load()) == "line"
    assert format_of(load(**PRODUCTION)) == "json"


TOKENS = {"JWT_ISSUER": "https://idp.example/", "JWT_AUDIENCE": "profiles"}
LOCAL_KEY = {"JWT_LOCAL_KEY": "0123456789abcdef" * 2}
PROVIDER = {"JWT_JWKS_URL": "https://idp.example/keys"}


@pytest.mark.parametrize("key", [LOCAL_KEY, PROVIDER, {}], ids=repr)
def test_one_key_or_none_is_enough_to_start(load, key):
    assert load(**PRODUCTION, **TOKENS, **key)["JWT_AUDIENCE"] == "profiles"


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({**TOKENS, **LOCAL_KEY, **PROVIDER}, "JWT_LOCAL_KEY is not valid"),
        ({**LOCAL_KEY, "JWT_ISSUER": "x"}, "JWT_ISSUER or JWT_AUDIENCE is not valid"),
        ({**PROVIDER, "JWT_AUDIENCE": "x"}, "JWT_ISSUER or JWT_AUDIENCE is not valid"),
    ],
)
def test_tokens_half_configured_stop_the_start(load, environ, named):
    with pytest.raises(Exception, match=named):
        load(**PRODUCTION, **environ)


def test_no_secret_is_in_the_sentence(load):
    with pytest.raises(Exception, match="give 32 random characters") as raised:
        load(JWT_LOCAL_KEY="s3cret-s3cret")
    assert "s3cret" not in str(raised.value)


def test_clients_are_throttled_in_production_alone(load):
    assert load()["THROTTLE_RATE"] is None
    assert load(**PRODUCTION)["THROTTLE_RATE"] == (100, 1.0)


def test_the_process_itself_ends_with_the_sentence():
    ended = python("import patientsite.settings", KAFKA_PARTITIONS="0")
    assert ended.returncode != 0
    assert ended.stderr.strip().endswith(
        "KAFKA_PARTITIONS is not valid: give a whole number from 1 on"
    )


def test_unset_means_production():
    ended = python("import patientsite.settings")
    assert "DJANGO_SECRET_KEY is not valid" in ended.stderr


ASK = """
import django, json, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "patientsite.settings"
django.setup()
from django.test import Client
named = {"host": "profiles.example.org"}
client = Client(headers=named)
secure = {"secure": True}
body = {"data": b'{"PatientId": "1"}', "content_type": "application/json"}
answers = {
    "post": client.post("/patientprofile", **body, **secure),
    "get": client.get("/patientprofile/1", **secure),
    "garbage": client.post("/patientprofile", **{**body, "data": b"{"}, **secure),
    "large": client.post("/patientprofile", **{**body, "data": b" " * 99999}, **secure),
    "delete": client.delete("/patientprofile", **secure),
    "page": client.get("/profiles/", **secure),
    "detail": client.get("/profiles/1/", **secure),
    "plain": client.get("/profiles/"),
    "alive": client.get("/livez"),
    "sign-in": client.get("/admin/login/", **secure),
    "forged": Client(enforce_csrf_checks=True, headers=named).post(
        "/admin/login/", {"username": "ada", "password": "x"}, **secure
    ),
    "foreign": client.get("/profiles/", headers={"host": "evil.example"}),
    "probe": client.get("/livez", headers={"host": "10.0.0.7"}),
}
told = {
    name: [answer.status_code, {**answer.headers, "cookies": answer.cookies.output()}]
    for name, answer in answers.items()
}
json.dump(told, sys.stdout)
"""


@pytest.fixture(scope="module")
def production(tmp_path_factory):
    """What a production process answers, by request."""
    ended = python(ASK, VAR_DIR=str(tmp_path_factory.mktemp("var")), **PRODUCTION)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("request_", ["post", "get", "garbage", "large", "delete"])
def test_production_answers_401_to_the_api_before_anything_else(production, request_):
    status, headers = production[request_]
    assert status == 401
    assert headers["WWW-Authenticate"].startswith("Bearer")
    assert headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("request_", ["page", "detail"])
def test_production_sends_the_pages_visitors_to_sign_in(production, request_):
    status, headers = production[request_]
    assert status == 302
    assert headers["Location"].startswith("/admin/login/?next=/profiles/")


def test_production_redirects_to_tls_but_for_the_probes(production):
    assert production["plain"][0] == 301
    assert production["plain"][1]["Location"].startswith("https://")
    assert production["alive"][0] == 200


def test_production_is_for_tls_for_a_year_to_come(production):
    told = production["sign-in"][1]["Strict-Transport-Security"]
    assert told == "max-age=31536000; includeSubDomains; preload"


def test_production_sends_its_cookies_by_tls_alone(production, load):
    status, headers = production["sign-in"]
    assert status == 200
    assert headers["cookies"].startswith("Set-Cookie: csrftoken=")
    assert "Secure" in headers["cookies"]
    loaded = load(**PRODUCTION)
    assert loaded["SESSION_COOKIE_SECURE"]
    assert loaded["CSRF_COOKIE_SECURE"]


def test_nobody_is_signed_in_by_another_sites_form(production):
    assert production["forged"][0] == 403


def test_production_serves_only_its_own_names(production):
    assert production["foreign"][0] == 400


def test_a_probe_asks_by_address(production):
    assert production["probe"][0] == 200
