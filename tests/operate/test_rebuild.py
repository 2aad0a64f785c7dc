"""Rebuilding a table: the consumer, configured for that table and for its group.

What it does to a table is proven on the real engines, in tests/real/test_recovery.py.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from profiles.management.commands import consume_profiles, rebuild_profiles


class Restarted(Exception):
    """The process would be another one now."""


@pytest.fixture
def restarted(monkeypatch):
    """The environments that the command was begun anew with."""
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
def test_it_becomes_a_process_for_the_table_and_its_group(restarted, options, group):
    with pytest.raises(Restarted):
        call_command("rebuild_profiles", "--table", "new", *options)
    (environ,) = restarted
    assert (environ["DYNAMODB_TABLE"], environ["KAFKA_GROUP_ID"]) == ("new", group)
    assert environ["PATH"] == os.environ["PATH"]


def test_a_group_that_serves_another_table_is_not_taken(restarted, settings):
    settings.KAFKA_GROUP_ID = "live"
    with pytest.raises(CommandError, match="live: name the group .* with --group"):
        call_command("rebuild_profiles", "--table", "new")
    assert restarted == []


@pytest.fixture
def consuming(monkeypatch):
    """Stands in for the consumer: whether it gets to the end is told here."""
    reached = {"end": True}

    def handle(self: Any, **options: Any) -> None:
        assert options == {"until_caught_up": True, "grown": False}
        self._over = reached["end"]

    monkeypatch.setattr(consume_profiles.Command, "handle", handle)
    monkeypatch.setattr(rebuild_profiles, "call_command", lambda *_, **__: None)
    return reached


def rebuild(table: str) -> str:
    output = io.StringIO()
    call_command("rebuild_profiles", "--table", table, stdout=output)
    return output.getvalue()


def test_the_end_tells_how_to_switch_over(consuming, settings):
    settings.DYNAMODB_TABLE, settings.KAFKA_GROUP_ID = "new", "profiles-new"
    assert rebuild("new").endswith("with DYNAMODB_TABLE=new.\n")
    settings.KAFKA_GROUP_ID = "mine"
    assert rebuild("new").endswith("with DYNAMODB_TABLE=new KAFKA_GROUP_ID=mine.\n")


def test_a_rebuild_that_was_stopped_is_no_success(consuming, settings):
    consuming["end"] = False
    with pytest.raises(CommandError, match="run it again to go on"):
        rebuild(settings.DYNAMODB_TABLE)
