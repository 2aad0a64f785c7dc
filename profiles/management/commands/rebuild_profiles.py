"""`manage.py rebuild_profiles`: the topic replayed from its beginning into a table.

It is the consumer with another table, and with the group that will serve that table.
So a switch-over continues where the rebuild ended, and a rebuild that was killed
continues at its last commit.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from profiles.dynamodb.client import StoreUnavailable
from profiles.kafka import topics
from profiles.management import errors
from profiles.management.commands import consume_profiles, provision

RETRY_S = 5.0

DONE = """Table {table} holds everything that is on the topic, consumed as group {group}.
To switch over, restart web and consumers with {environ}."""


class Command(consume_profiles.Command):
    """The consumer, until it is caught up."""

    help = "Replay the topic into a new table; run it again to continue after a kill."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--table", required=True, help="the table to fill")
        parser.add_argument(
            "--group", help="the group that will serve it (default: profiles-TABLE)"
        )
        parser.add_argument("--grown", action="store_true", help=topics.GROWN)

    @errors.as_sentences()
    def handle(self, *args: Any, **options: Any) -> None:
        """Restart with the settings of the table, then create it and fill it."""
        table = options["table"]
        if table != settings.DYNAMODB_TABLE:
            _restart(_environ(table, options["group"]))
        self._provision()
        super().handle(until_caught_up=True, grown=options["grown"])
        self.stdout.write(_done(table, settings.KAFKA_GROUP_ID))

    def _provision(self) -> None:
        """Create the table; wait while DynamoDB is away or throttles."""
        while True:
            try:
                provision.report(provision.table(), self.stdout)
                return
            except StoreUnavailable as error:
                self.stderr.write(f"waiting: {errors.sentence(error)}")
                time.sleep(RETRY_S)


def _environ(table: str, group: str | None) -> dict[str, str]:
    current = _default_group(settings.DYNAMODB_TABLE)
    if group is None and current != settings.KAFKA_GROUP_ID:
        raise CommandError(
            f"KAFKA_GROUP_ID is set to {settings.KAFKA_GROUP_ID}: name the group that "
            f"will serve table {table} with --group."
        )
    return {"DYNAMODB_TABLE": table, "KAFKA_GROUP_ID": group or _default_group(table)}


def _restart(environ: dict[str, str]) -> None:
    """Start this command again: the settings are for one table and one group."""
    command = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, command, {**os.environ, **environ})  # noqa: S606


def _default_group(table: str) -> str:
    return f"profiles-{table}"


def _done(table: str, group: str) -> str:
    environ = f"DYNAMODB_TABLE={table}"
    if group != _default_group(table):
        environ += f" KAFKA_GROUP_ID={group}"
    return DONE.format(table=table, group=group, environ=environ)
