"""`manage.py consume_profiles`: one member of the consumer group."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial
from typing import Any

from confluent_kafka import Consumer
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from profiles.consumer.loop import (
    MemberRefused,
    ProfileConsumer,
    RecordsMissing,
    StartOver,
)
from profiles.dynamodb import client, wire
from profiles.dynamodb.client import StoreUnavailable
from profiles.dynamodb.writer import TableWriter
from profiles.kafka import clients, groups, topics
from profiles.kafka.dead_letters import DeadLetterWriter
from profiles.management import errors
from profiles.runtime import metrics

log = logging.getLogger(__name__)


class Command(BaseCommand):
    """Merges the updates into the table until SIGTERM or Ctrl-C."""

    help = "Consume the topic and merge the updates into the table."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--until-caught-up",
            action="store_true",
            help="end with exit code 0 once every partition is read to its end",
        )
        parser.add_argument("--grown", action="store_true", help=topics.GROWN)

    @errors.as_sentences(MemberRefused, RecordsMissing)
    def handle(self, *args: Any, **options: Any) -> None:
        """Consume; begin anew where topic or table are others, or the group lost us."""
        self._consumer: ProfileConsumer | None = None
        self._stopped = False
        self._grown = options["grown"]
        self._admin_connection = topics.AdminConnection(clients.admin)
        dynamodb = client.connect()
        self._table = TableWriter(
            dynamodb, settings.DYNAMODB_TABLE, wire.connect(dynamodb)
        )
        self._letters = DeadLetterWriter(
            clients.dead_letter_producer, settings.KAFKA_DLQ_TOPIC
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        if settings.METRICS_PORT:
            address = "127.0.0.1" if settings.DEVELOPMENT else "0.0.0.0"  # noqa: S104
            metrics.serve(address, settings.METRICS_PORT)
        self._partitions = range(self._read_topic().partitions)
        while not (self._stopped or self._consume(options["until_caught_up"])):
            pass
        if self._stopped and options["until_caught_up"]:
            raise CommandError("Stopped before everything was read.")

    def _stop(self) -> None:
        """A signal came: it counts for the consumer that is, and for one to come."""
        self._stopped = True
        if self._consumer is not None:
            self._consumer.stop()

    def _read_topic(self) -> topics.Topic:
        return self._admin_connection.query(
            partial(topics.configured, grown=self._grown)
        )

    def _identity(self) -> str | None:
        """Waits for the table, as updates do on the topic; None where we are to stop."""
        while not self._stopped:
            try:
                return self._table.identity()
            except StoreUnavailable as error:
                self.stderr.write(f"waiting: {errors.sentence(error)}")
                self._pause()
        return None

    def _pause(self) -> None:
        until = time.monotonic() + 5
        while not self._stopped and time.monotonic() < until:
            time.sleep(0.2)

    def _consume(self, until_caught_up: bool) -> bool:
        """Whether it is over; else another consumer is to begin anew."""
        store = self._identity()
        if store is None:
            return True
        consumer = self._consumer = ProfileConsumer(
            clients.consumer,
            self._read_topic,
            settings.KAFKA_PARTITIONS,
            partial(self._admin_connection.query, groups.configured_group),
            store,
            partial(_told, self._table),
            self._table.apply,
            self._letters.put,
        )
        if self._stopped:  # while it was made, and it did not hear
            consumer.stop()
        try:
            consumer.run(self.caught_up(consumer) if until_caught_up else _never)
        except StartOver as reason:
            log.warning("%s: starting over", reason)
            return False
        return True

    @cached_property
    def group_reader(self) -> Consumer:
        """Reads what the group committed, from outside it."""
        return clients.group_reader()

    def caught_up(self, consumer: ProfileConsumer) -> Callable[[], bool]:
        """Whether we and, where others own partitions, the others are at the end."""

        def caught_up() -> bool:
            others = set(self._partitions) - consumer.owned
            return consumer.caught_up and (
                not others
                or groups.all_read(self.group_reader, settings.KAFKA_TOPIC, others)
            )

        return caught_up


def _told(table: TableWriter) -> str | None:
    """Which table it is; None where it does not tell now."""
    with suppress(StoreUnavailable):
        return table.identity()
    return None


def _never() -> bool:
    return False
