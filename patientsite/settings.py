"""Settings: every environment variable of the service, each read once, here.

A bad value stops the start with an `ImproperlyConfigured` that names the variable.
`DJANGO_DEBUG` means development; unset means production. Django's own DEBUG is always
off: its technical pages print local variables, and those hold patients' data.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from botocore.exceptions import ProfileNotFound
from botocore.session import get_session
from csp.constants import NONCE, NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from patientsite import __version__

BASE_DIR = Path(__file__).resolve().parent.parent
T = TypeVar("T")


def env(name: str, default: str, cast: Callable[[str], T]) -> T:
    """One environment variable, converted; an unset or empty one is `default`."""
    text = os.environ.get(name) or default
    try:
        return cast(text)
    except (ValueError, TypeError) as error:
        raise ImproperlyConfigured(f"{name} is not valid: {error}") from None


def flag(text: str) -> bool:
    """Cast: 1, true, yes, on or 0, false, no, off."""
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError("give 1 or 0")
    return words[text.lower()]


def positive(text: str) -> int:
    """Cast: a whole number from 1 on."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError("give a whole number from 1 on")
    return int(text)


def words(text: str) -> list[str]:
    """Cast: words separated by commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def one_of(*choices: str) -> Callable[[str], str]:
    """Cast: one of these words."""

    def cast(text: str) -> str:
        if text not in choices:
            raise ValueError(f"give one of {', '.join(choices)}")
        return text

    return cast


def topic_epoch(text: str) -> str:
    """Cast: replaces the topic id; it is part of receipts and attribute names."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{0,64}", text, re.ASCII):
        raise ValueError("give up to 64 letters, digits, - and _")
    return text


def msk_region(text: str) -> str:
    """Cast: an AWS region; signing in there takes the extra `msk`."""
    if text and find_spec("aws_msk_iam_sasl_signer") is None:
        raise ValueError("install aws-msk-iam-sasl-signer-python, the extra msk")
    return text


def aws_region() -> str:
    """The region as AWS's own tools find it, or as ECS sets it; empty if there is none."""
    try:
        region = get_session().get_config_variable("region")
    except ProfileNotFound as error:
        raise ImproperlyConfigured(f"AWS_PROFILE is not valid: {error}") from None
    return str(region or os.environ.get("AWS_REGION", ""))


def networks(text: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Cast: networks in CIDR form, separated by commas."""
    return [ipaddress.ip_network(word) for word in words(text)]


def secret(shortest: int) -> Callable[[str], str]:
    """Cast: a secret of at least so many bytes, with ten different characters."""

    def cast(text: str) -> str:
        if text and (len(text.encode()) < shortest or len(set(text)) < 10):
            raise ValueError(f"give {shortest} random characters or more")
        return text

    return cast


def key_url(text: str) -> str:
    """Cast: the address of the keys: https, or http on this machine."""
    parts = urlsplit(text)
    local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost")
    if text and not local and (parts.scheme != "https" or not parts.hostname):
        raise ValueError("give an https:// address")
    return text


def rate(text: str) -> tuple[int, float] | None:
    """Cast: a count per s, min or hour, or off."""
    if text == "off":
        return None
    count, _, unit = text.partition("/")
    periods = {"s": 1.0, "min": 60.0, "hour": 3600.0}
    if unit not in periods:
        raise ValueError("give a rate such as 100/s, 1000/min or 9000/hour, or off")
    return positive(count), periods[unit]


def properties(text: str) -> dict[str, Any]:
    """Cast: librdkafka properties as a JSON object, without those the guarantee fixes."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        raise ValueError("give a JSON object") from None
    if not isinstance(value, dict):
        raise ValueError("give a JSON object")
    if fixed := sorted(FIXED_KAFKA_PROPERTIES & value.keys()):
        raise ValueError(f"{', '.join(fixed)} is fixed by the service's guarantee")
    return value


FIXED_KAFKA_PROPERTIES = {
    "acks",
    "request.required.acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "default.topic.config",
    "delivery.timeout.ms",
    "message.timeout.ms",
    "metadata.broker.list",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.protocol",
    "partition.assignment.strategy",
    "partitioner",
    "transactional.id",
}

DEVELOPMENT = env("DJANGO_DEBUG", "0", flag)
DEBUG = False
ENVIRONMENT = (
    env("DEVELOPMENT_ENGINES", "local", one_of("embedded", "local"))
    if DEVELOPMENT
    else "production"
)

# --- Kafka -------------------------------------------------------------------------

KAFKA_BOOTSTRAP_SERVERS = env("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092", str)
KAFKA_TOPIC = env("KAFKA_TOPIC", "patient-profile", str)
KAFKA_DLQ_TOPIC = f"{KAFKA_TOPIC}.dlq"
KAFKA_TOPIC_EPOCH = env("KAFKA_TOPIC_EPOCH", "", topic_epoch)
KAFKA_PARTITIONS = env("KAFKA_PARTITIONS", "12", positive)
KAFKA_RETENTION_MS = env("KAFKA_RETENTION_MS", "-1", int)
# In development the consumer starts often. The embedded broker lets it join after half of
# its session timeout.
QUICK_TO_JOIN = '{"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000}'
KAFKA_CONFIG = env("KAFKA_CONFIG", QUICK_TO_JOIN if DEVELOPMENT else "{}", properties)
KAFKA_MSK_IAM_REGION = env("KAFKA_MSK_IAM_REGION", "", msk_region)
KAFKA_GROUP_PROTOCOL = env(
    "KAFKA_GROUP_PROTOCOL", "classic", one_of("classic", "consumer")
)

# --- DynamoDB ----------------------------------------------------------------------

DYNAMODB_ENDPOINT_URL = os.environ.get(
    "DYNAMODB_ENDPOINT_URL", "http://127.0.0.1:4566" if DEVELOPMENT else ""
)
DYNAMODB_REGION = aws_region()
DYNAMODB_TABLE = env("DYNAMODB_TABLE", "patient-profile", str)

# The group belongs to the table: another table is filled from the topic's beginning.
KAFKA_GROUP_ID = env("KAFKA_GROUP_ID", f"profiles-{DYNAMODB_TABLE}", str)

# --- Web ---------------------------------------------------------------------------

LOCAL_HOSTS = ["localhost", "127.0.0.1", "[::1]", "0.0.0.0"]  # noqa: S104 a Host header, not an address to bind
LOOPBACK = "127.0.0.0/8,::1/128"

OPEN_PEERS = env("DJANGO_OPEN_PEERS", "", networks)
ALLOWED_HOSTS = env(
    "DJANGO_ALLOWED_HOSTS", ",".join(LOCAL_HOSTS) if DEVELOPMENT else "", words
)
DEVELOPMENT_SECRET_KEY = "development-only-" + "0" * 40
SECRET_KEY = env(
    "DJANGO_SECRET_KEY", DEVELOPMENT_SECRET_KEY if DEVELOPMENT else "", str
)
WEB_THREADS = env("WEB_THREADS", "18", positive)
PORT = env("PORT", "3000", positive)
METRICS_PORT = env("METRICS_PORT", "0", int)
THROTTLE_RATE = env("THROTTLE_RATE", "off" if DEVELOPMENT else "100/s", rate)

if DEVELOPMENT:
    OPEN_PEERS += networks(LOOPBACK)
else:
    if OPEN_PEERS:
        raise ImproperlyConfigured(
            "DJANGO_OPEN_PEERS is not valid: production needs it unset"
        )
    if len(SECRET_KEY) < 50 or len(set(SECRET_KEY)) < 10:
        raise ImproperlyConfigured(
            "DJANGO_SECRET_KEY is not valid: production needs 50 random characters "
            "or more"
        )
    if SECRET_KEY == DEVELOPMENT_SECRET_KEY:
        raise ImproperlyConfigured(
            "DJANGO_SECRET_KEY is not valid: production needs a key of its own, not the "
            "development key"
        )
    if not (DYNAMODB_REGION or DYNAMODB_ENDPOINT_URL):
        raise ImproperlyConfigured(
            "AWS_DEFAULT_REGION is not valid: production needs the table's region"
        )
    if not ALLOWED_HOSTS or any("*" in h or h.startswith(".") for h in ALLOWED_HOSTS):
        raise ImproperlyConfigured(
            "DJANGO_ALLOWED_HOSTS is not valid: production needs the names it serves, "
            "separated by commas, each in full: without * and without a leading dot"
        )

DATA_UPLOAD_MAX_MEMORY_SIZE = 8 * 1024 * 1024
ROOT_URLCONF = "patientsite.urls"
WSGI_APPLICATION = "patientsite.wsgi.application"
APPEND_SLASH = False
TIME_ZONE = "UTC"
USE_TZ = True
LANGUAGE_CODE = "en"
USE_I18N = False

INSTALLED_APPS = [
    "profiles",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
]
if DEVELOPMENT and find_spec("devstack"):  # in a checkout only
    INSTALLED_APPS.append("devstack")

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "profiles.runtime.tracing.identify",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "profiles.access.callers.OpenModeGuard",
    "profiles.api.views.lane",
    "profiles.api.bodies.limited",
    "profiles.access.callers.database_connections",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": ["profiles.access.callers.MayRead"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "profiles.api.problems.exception_handler",
    "UNAUTHENTICATED_USER": None,
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Patient Profile",
    "DESCRIPTION": "Partial updates of patient profiles, in order and never lost.",
    "VERSION": __version__,
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "APPEND_COMPONENTS": {
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
        }
    },
    "POSTPROCESSING_HOOKS": [],
    # The contract holds no patient's data.
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
}

# --- Tokens -------------------------------------------------------------------------

JWT_ISSUER = env("JWT_ISSUER", "", str)
JWT_AUDIENCE = env("JWT_AUDIENCE", "", str)
JWT_JWKS_URL = env("JWT_JWKS_URL", "", key_url)
JWT_LOCAL_KEY = env("JWT_LOCAL_KEY", "", secret(32))

if JWT_JWKS_URL and JWT_LOCAL_KEY:
    raise ImproperlyConfigured(
        "JWT_LOCAL_KEY is not valid: set either JWT_JWKS_URL or JWT_LOCAL_KEY, not both"
    )
if (JWT_JWKS_URL or JWT_LOCAL_KEY) and not (JWT_ISSUER and JWT_AUDIENCE):
    raise ImproperlyConfigured(
        "JWT_ISSUER or JWT_AUDIENCE is not valid: a key requires both, the issuer and "
        "the audience of the tokens to accept"
    )

# --- Sign-in, sessions and static files --------------------------------------------

# If installed, BASE_DIR is site-packages: state goes elsewhere.
INSTALLED = not (BASE_DIR / "manage.py").exists()
STATE = Path.home() / ".local/state/patient-profile" if INSTALLED else BASE_DIR / "var"
VAR_DIR = env("VAR_DIR", str(STATE), Path)
VAR_DIR.mkdir(parents=True, exist_ok=True)  # SQLite makes the file, not its folder

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": VAR_DIR / "site.sqlite3",
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{validator}"}
    for validator in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "admin:login"
SESSION_COOKIE_AGE = 12 * 60 * 60
STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True

# --- Transport ---------------------------------------------------------------------

TRUST_PROXY = env("DJANGO_TRUST_PROXY", "0", flag)
if TRUST_PROXY:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
if not DEVELOPMENT:
    SECURE_SSL_REDIRECT = True
    SECURE_REDIRECT_EXEMPT = [r"^(livez|readyz|metrics)$"]
    SECURE_HSTS_SECONDS = 31_536_000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"  # the addresses hold PatientIds
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF, NONCE],
        "style-src": [SELF, NONCE],
        "img-src": [SELF, "data:"],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "object-src": [NONE],
    }
}

# --- Logs --------------------------------------------------------------------------

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": "profiles.runtime.log_format.Frames",
            "format": "%(asctime)s %(levelname)s %(name)s %(message)s",
        },
        "json": {"()": "profiles.runtime.log_format.JsonLines"},
    },
    "filters": {
        "repeats": {"()": "profiles.runtime.log_format.Repeats"},
        "no_query": {"()": "profiles.runtime.log_format.NoQuery"},
    },
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": "line" if DEVELOPMENT else "json",
        }
    },
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        "botocore": {"level": "WARNING"},
        "django": {"level": "INFO"},
        "kafka": {"level": "INFO", "filters": ["repeats"]},
        # A refused request is in the access log and in the metrics.
        "django.request": {"level": "ERROR"},
        "django.server": {
            "handlers": ["stderr"],
            "level": "INFO",
            "propagate": False,
            "filters": ["no_query"],
        },
    },
}
