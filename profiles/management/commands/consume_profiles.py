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

from profiles.consumer.changes import ChangeDetector, StartOver
from profiles.consumer.loop import ProfileConsumer
from profiles.consumer.reading import MemberRefused, RecordsMissing
from profiles.dynamodb import client, wire
from profiles.dynamodb.client import StoreUnavailable
from profiles.dynamodb.writer import TableWriter
from profiles.kafka import clients, groups, topics
from profiles.kafka.dead_letters import DeadLetterWriter
from profiles.management import errors
from profiles.runtime import metrics

log = logging.getLogger(__name__)

TABLE_WAIT_S = 5.0


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
        """Run one consumer after another until a signal, or until all is read."""
        self._prepare(options["grown"])
        self._partitions = range(self._read_topic().partitions)
        while not (self._stopped or self._consume(options["until_caught_up"])):
            pass
        if self._stopped and options["until_caught_up"]:
            raise CommandError("Stopped before everything was read.")

    def _prepare(self, grown: bool) -> None:
        """Make the clients that every consumer uses, and listen to signals."""
        self._grown = grown
        self._stopped = False
        self._consumer: ProfileConsumer | None = None
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

    def _stop(self) -> None:
        """Stop the consumer that runs, and any that would be made after it."""
        self._stopped = True
        if self._consumer is not None:
            self._consumer.stop()

    def _read_topic(self) -> topics.Topic:
        return self._admin_connection.query(
            partial(topics.configured, grown=self._grown)
        )

    def _read_group(self) -> groups.Group:
        return self._admin_connection.query(groups.configured_group)

    def _read_table_id(self) -> str | None:
        """The table's id; None if DynamoDB does not answer now."""
        with suppress(StoreUnavailable):
            return self._table.identity()
        return None

    def _consume(self, until_caught_up: bool) -> bool:
        """Run one consumer; whether it ended, else another one has to start over."""
        table_id = self._wait_for_table()
        if table_id is None:
            return True
        consumer = self._consumer = self._make_consumer(table_id)
        if self._stopped:  # a signal came before `self._consumer` was set
            consumer.stop()
        try:
            consumer.run(self.caught_up(consumer) if until_caught_up else _never)
        except StartOver as reason:
            log.warning("%s: starting over", reason)
            return False
        return True

    def _wait_for_table(self) -> str | None:
        """The table's id, as soon as DynamoDB answers; None after a signal."""
        while not self._stopped:
            try:
                return self._table.identity()
            except StoreUnavailable as error:
                self.stderr.write(f"waiting: {errors.sentence(error)}")
                self._pause()
        return None

    def _pause(self) -> None:
        deadline = time.monotonic() + TABLE_WAIT_S
        while not self._stopped and time.monotonic() < deadline:
            time.sleep(0.2)

    def _make_consumer(self, table_id: str) -> ProfileConsumer:
        changes = ChangeDetector(
            self._read_topic, self._read_table_id, self._read_group, table_id
        )
        return ProfileConsumer(
            clients.consumer,
            changes,
            settings.KAFKA_PARTITIONS,
            self._table.apply,
            self._letters.put,
        )

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


def _never() -> bool:
    return False
