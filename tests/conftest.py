"""What all tests share: an environment of their own, and a table on moto."""

from __future__ import annotations

import math
import os
import threading
from contextlib import nullcontext

# Before Django reads it: a shell that points at production must not meet a test.
for name in [*os.environ]:
    if name.startswith(
        ("AWS_", "DJANGO_", "DYNAMODB_", "JWT_", "KAFKA_", "PORT", "THROTTLE_", "WEB_")
    ):
        del os.environ[name]
os.environ["DJANGO_DEBUG"] = "1"
os.environ["DJANGO_SETTINGS_MODULE"] = "patientsite.settings"

import django  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings as hypothesis_settings  # noqa: E402

from tests.engines.process import wait_until  # noqa: E402

django.setup()

# The machine's noise is no failure.
hypothesis_settings.register_profile("tests", deadline=None)
hypothesis_settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _no_connection_to_end(request, monkeypatch):
    """A test without the database is not to meet the connection of one with it."""
    if "db" not in request.fixturenames:
        monkeypatch.setattr(
            "profiles.access.callers.close_old_connections", lambda: None
        )


@pytest.fixture(autouse=True)
def _no_reader_of_the_table_outlives_its_test():
    """Else it makes clients from the next test's settings, and takes its answers."""
    from profiles.runtime.background import BackgroundReader

    yield
    for thread in threading.enumerate():
        reader = getattr(getattr(thread, "_target", None), "__self__", None)
        if thread.name == "DynamoDB" and isinstance(reader, BackgroundReader):
            end(reader)
            thread.join(10)
            reader._wanted_after = -math.inf


def end(reader):
    """Let a background reader end after the reading that is under way."""
    with reader._changed:
        reader._wanted_until, reader._wanted_after = 0, math.inf
        reader._changed.notify_all()


@pytest.fixture(params=["django", "front"])
def way(request):
    """Who answers: Django alone, or the front before it."""
    return request.param


@pytest.fixture
def either_way(way, monkeypatch):
    """The test runs twice, and its client takes each way."""
    if way == "front":
        from tests import front

        monkeypatch.setattr("django.test.client.ClientHandler", front.Handler)


@pytest.fixture(scope="module")
def moto():
    """A DynamoDB client on moto, kept for a module: making one takes a moment."""
    from django.conf import settings
    from moto import mock_aws

    from profiles.dynamodb import client as clients

    with mock_aws(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setattr(settings, "DYNAMODB_ENDPOINT_URL", "")
        client = clients.connect()
        patch.setattr(client, "batch_execute_statement", refuse)
        yield client


def refuse(Statements):
    """moto knows no such PartiQL: each update is left to `update_item`, which it knows."""
    refusal = {"Error": {"Code": "ConditionalCheckFailed"}}
    return {"Responses": [refusal for _ in Statements]}


@pytest.fixture
def dynamodb(moto, settings, monkeypatch):
    """The client on moto, in use everywhere, with the configured table and no other."""
    from profiles.core import items
    from profiles.dynamodb import client, reader

    for table in moto.list_tables()["TableNames"]:
        moto.delete_table(TableName=table)
    moto.create_table(**items.table_definition(settings.DYNAMODB_TABLE))
    monkeypatch.setattr(client, "connect", lambda attempts=1: moto)
    reader.profiles.cache_clear()
    yield moto
    reader.profiles.cache_clear()


@pytest.fixture
def observe(monkeypatch):
    """Makes readers that read again at once; they end with the test."""
    from profiles.runtime import background

    monkeypatch.setattr(background, "EVERY_S", 0.01)
    readers = []

    def make(read, *expected):
        reader = background.BackgroundReader("It", lambda: nullcontext(read), expected)
        readers.append(reader)
        return reader

    yield make
    for reader in readers:
        end(reader)
    wait_until(lambda: all(reader._thread is None for reader in readers), 5, "it reads")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits for engines first, so that the rest runs beside it."""
    items.sort(key=lambda item: item.get_closest_marker("stack") is None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engines",
        choices=["embedded", "real"],
        default="embedded",
        help="which engines the end-to-end tests run on",
    )
