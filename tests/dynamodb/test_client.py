"""The client: credentials that can't be read, and answers that are none."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from profiles.api import posting
from profiles.core.updates import Receipt
from profiles.dynamodb import client, reader, wire
from profiles.dynamodb.client import StoreRefused, StoreUnavailable
from profiles.dynamodb.reader import TableReader
from profiles.dynamodb.writer import TableWriter
from profiles.kafka.topics import Topic
from tests.api.test_receipts import SOURCE, post, watch_topics
from tests.dynamodb.scripted import ScriptedServer, reply
from tests.fakes import OURS, update_at

UNREADABLE = "the AWS credentials can't be read"


@pytest.fixture(autouse=True)
def _nothing_else(monkeypatch, settings):
    """No credentials but those of the test, and no server for them."""
    settings.DYNAMODB_ENDPOINT_URL = ""
    settings.DYNAMODB_REGION = "eu-central-1"
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    reader.profiles.cache_clear()
    yield
    reader.profiles.cache_clear()


def by_process(monkeypatch, path, program):
    config = path / "config"
    config.write_text(f"[default]\ncredential_process = {program}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))


PROGRAMS = {
    "fails": f"{sys.executable} -c 'raise SystemExit(1)'",
    "is missing": "/nowhere/to/be/found",
    "prints no JSON": f"{sys.executable} -c 'print(7, 8)'",
    "prints no keys": f"{sys.executable} -c 'print(dict())'",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_process_for_credentials_that_fails_is_waited_for(
    monkeypatch, tmp_path, name
):
    by_process(monkeypatch, tmp_path, PROGRAMS[name])
    with pytest.raises(StoreUnavailable, match=UNREADABLE):
        client.connect()
    with pytest.raises(StoreUnavailable, match=UNREADABLE):
        reader.profiles()


def test_the_web_answers_all_the_same_where_credentials_can_not_be_read(
    monkeypatch, tmp_path
):
    """503 for a read, 202 for an update that is on the topic."""
    by_process(monkeypatch, tmp_path, PROGRAMS["fails"])

    class Publisher:
        def publish_all(self, posted, headers):
            return [Receipt(SOURCE, 41) for _ in posted]

    monkeypatch.setattr(posting, "publisher", Publisher)
    watch_topics(monkeypatch, Topic("patient-profile", SOURCE.topic_id, 12))
    read = Client().get("/patientprofile/1")
    assert (read.status_code, UNREADABLE in read.json()["detail"]) == (503, True)
    assert post("wait=5").status_code == 202


@pytest.mark.parametrize("command", ["consume_profiles", "audit_profiles"])
def test_a_command_says_that_credentials_can_not_be_read(
    monkeypatch, tmp_path, command
):
    by_process(monkeypatch, tmp_path, PROGRAMS["fails"])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(CommandError, match=UNREADABLE):
        call_command(command)


def test_a_profile_that_is_missing_stops_commands_and_not_the_web(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreRefused, match="no AWS credentials: configure them"):
        client.connect()
    with pytest.raises(StoreUnavailable, match="no AWS credentials: configure them"):
        reader.profiles()


@pytest.fixture
def tokenless(monkeypatch):
    """Of a pod whose token is not mounted: read at the first call."""
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/consumer")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/token")
    return client.connect()


def test_a_token_that_is_missing_is_waited_for(tokenless):
    for read in (
        lambda: TableReader(tokenless, "t").get("1"),
        lambda: [*TableReader(tokenless, "t").all()],
        TableReader(tokenless, "t").identity,
        TableWriter(tokenless, "t").identity,
    ):
        with pytest.raises(StoreUnavailable, match=UNREADABLE):
            read()
    for carried in (None, wire.connect(tokenless)):
        outcome = TableWriter(tokenless, "t", carried).apply([update_at(1)], OURS)
        assert (len(outcome.remaining), outcome.trouble) == (1, UNREADABLE)


LIES: dict[str, Any] = {
    "a page": reply(b"<html>", kind="text/html"),
    "a page by another name": reply(b"<html>"),
    "JSON of another kind": reply({}, kind="application/json"),
    "half an object": reply(b'{"Item": {"PatientId": {"S"'),
    "a list": reply([]),
    "another checksum": reply({}, crc32=1),
    "other members": reply({"Item": 7, "Items": 7, "Table": 7}),
}


@pytest.fixture
def lying(settings, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with ScriptedServer() as server:
        settings.DYNAMODB_ENDPOINT_URL = server.url
        boto = client.connect()
        yield server, TableReader(boto, "t"), TableWriter(boto, "t")
        boto.close()


@pytest.mark.parametrize("name", LIES)
def test_an_answer_that_is_none_is_no_item_and_no_page(lying, name):
    server, table, writer = lying
    server.script = [LIES[name]] * 5
    for read in (
        lambda: table.get("1"),
        lambda: table.page(10),
        lambda: [*table.all()],
        table.identity,
        writer.identity,
    ):
        with pytest.raises(StoreUnavailable, match="no answer of DynamoDB"):
            read()


def test_an_empty_object_is_no_page_and_no_table(lying):
    server, table, writer = lying
    server.script = [reply({})] * 3
    for read in (lambda: table.page(10), table.identity, writer.identity):
        with pytest.raises(StoreUnavailable, match="no answer of DynamoDB"):
            read()


def test_a_patient_without_an_item_is_answered_by_an_empty_object(lying):
    server, table, _ = lying
    server.script = [reply({})]
    assert table.get("1") is None
