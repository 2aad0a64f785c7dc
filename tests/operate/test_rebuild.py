"""Rebuilding a table: the consumer, configured for that table and for its group.

What it writes is tested on the real engines, in tests/real/test_recovery.py.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import pytest
from botocore.exceptions import ClientError
from django.core.management import CommandError, call_command

from profiles.management.commands import consume_profiles


class Restarted(Exception):
    """The process would have been replaced."""


@pytest.fixture
def restarted(monkeypatch):
    """The environments that the command restarted with."""
    environs: list[dict[str, str]] = []

    def execve(program: str, argv: list[str], environ: dict[str, str]) -> None:
        assert program == sys.executable
        environs.append(environ)
        raise Restarted

    monkeypatch.setattr(os, "execve", execve)
    return environs


@pytest.mark.parametrize(
    ("options", "group"), [([], "profiles-new"), (["--group", "mine"], "mine")]
)
def test_it_restarts_with_the_table_and_its_group(restarted, options, group):
    with pytest.raises(Restarted):
        call_command("rebuild_profiles", "--table", "new", *options)
    (environ,) = restarted
    assert (environ["DYNAMODB_TABLE"], environ["KAFKA_GROUP_ID"]) == ("new", group)
    assert environ["PATH"] == os.environ["PATH"]


def test_the_group_of_another_table_is_refused(restarted, settings):
    settings.KAFKA_GROUP_ID = "live"
    with pytest.raises(CommandError, match="live: name the group .* with --group"):
        call_command("rebuild_profiles", "--table", "new")
    assert restarted == []


@pytest.fixture
def consuming(dynamodb, settings, monkeypatch):
    """Stands in for the consumer: how it ends is set here; DynamoDB has no table."""
    settings.DYNAMODB_TABLE, settings.KAFKA_GROUP_ID = "new", "profiles-new"
    ends: list[Exception] = []

    def handle(self: Any, **options: Any) -> None:
        assert options == {"until_caught_up": True, "grown": False}
        if ends:
            raise ends.pop()

    monkeypatch.setattr(consume_profiles.Command, "handle", handle)
    return ends


def rebuild() -> str:
    output = io.StringIO()
    call_command("rebuild_profiles", "--table", "new", stdout=output, stderr=output)
    return output.getvalue()


def test_the_table_is_created_and_the_end_says_how_to_switch_over(consuming, settings):
    said = rebuild()
    assert said.startswith("table new: created\n")
    assert said.endswith("with DYNAMODB_TABLE=new.\n")
    settings.KAFKA_GROUP_ID = "mine"
    assert rebuild().endswith("with DYNAMODB_TABLE=new KAFKA_GROUP_ID=mine.\n")


def test_a_rebuild_that_was_stopped_is_no_success(consuming):
    consuming.append(CommandError("Stopped before everything was read."))
    with pytest.raises(CommandError, match="Stopped before"):
        rebuild()


def test_a_rebuild_waits_while_dynamodb_throttles(consuming, dynamodb, monkeypatch):
    create, waits = dynamodb.create_table, list[float]()

    def throttled(**definition):
        if len(waits) == 3:
            return create(**definition)
        error: Any = {"Error": {"Code": "ThrottlingException"}}
        error["ResponseMetadata"] = {"HTTPStatusCode": 400}
        raise ClientError(error, "CreateTable")

    monkeypatch.setattr(dynamodb, "create_table", throttled)
    monkeypatch.setattr("time.sleep", waits.append)
    said = rebuild()
    assert said.count("waiting: DynamoDB answers Throttling") == 3
    assert "table new: created" in said


def test_a_table_with_another_key_is_not_filled(consuming, dynamodb):
    dynamodb.create_table(
        TableName="new",
        KeySchema=[{"AttributeName": "Id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "Id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    consuming.append(AssertionError("it was consumed"))
    with pytest.raises(CommandError, match="Differences from the settings: 1"):
        rebuild()
