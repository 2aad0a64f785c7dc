"""`manage.py rebuild_profiles`: the topic replayed from its beginning into a table.

It is the consumer with another table, and with the group that will serve that table:
so the switch-over goes on where the rebuild ended, and a rebuild that was killed where
it had committed.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError, CommandParser

from profiles.consumer.loop import ProfileConsumer
from profiles.kafka import topics
from profiles.kafka.reader import LogReader
from profiles.management.commands import consume_profiles
from profiles.management.progress import Progress

DONE = """Table {table} holds everything that is on the topic, consumed as group {group}.
To switch over, restart web and consumers with {environ}."""


class Command(consume_profiles.Command):
    """The consumer, until it is caught up."""

    help = "Replay the topic into a fresh table; run it again to go on after a kill."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--table", required=True, help="the table to fill")
        parser.add_argument(
            "--group", help="the group that will serve it (default: profiles-TABLE)"
        )
        parser.add_argument("--grown", action="store_true", help=topics.GROWN)

    def handle(self, *args: Any, **options: Any) -> None:
        """Become a process that is configured for the table; make it, and fill it."""
        table = options["table"]
        if table != settings.DYNAMODB_TABLE:
            _restart(_environ(table, options["group"]))
        self._over = False
        call_command("provision", stdout=self.stdout)
        super().handle(until_caught_up=True, grown=options["grown"])
        if not self._over:
            raise CommandError("Stopped before the end: run it again to go on.")
        self.stdout.write(_done(table, settings.KAFKA_GROUP_ID))

    def caught_up(self, consumer: ProfileConsumer) -> Callable[[], bool]:
        """As for every consumer, with a progress bar on a terminal."""
        is_over = super().caught_up(consumer)
        log = LogReader(self.group_reader, self._read_topic())
        records = sum(map(len, log.spans().values()))
        store = self._table.identity()
        progress = Progress(sys.stderr, records, "records")
        if sys.stderr.isatty():
            logging.getLogger("profiles.consumer").setLevel(logging.WARNING)

        def caught_up() -> bool:
            self._over = is_over()
            progress.show(lambda: sum(log.committed(store).values()))
            if self._over:
                progress.wipe()
            return self._over

        return caught_up


def _environ(table: str, group: str | None) -> dict[str, str]:
    ours = _default_group(settings.DYNAMODB_TABLE)
    if group is None and ours != settings.KAFKA_GROUP_ID:
        raise CommandError(
            f"KAFKA_GROUP_ID is set, to {settings.KAFKA_GROUP_ID}: name the group that "
            f"will serve table {table} with --group."
        )
    return {"DYNAMODB_TABLE": table, "KAFKA_GROUP_ID": group or _default_group(table)}


def _restart(environ: dict[str, str]) -> None:
    """Begin this command anew: the settings are of one table and one group."""
    command = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, command, {**os.environ, **environ})  # noqa: S606


def _default_group(table: str) -> str:
    return f"profiles-{table}"


def _done(table: str, group: str) -> str:
    environ = f"DYNAMODB_TABLE={table}"
    if group != _default_group(table):
        environ += f" KAFKA_GROUP_ID={group}"
    return DONE.format(table=table, group=group, environ=environ)
