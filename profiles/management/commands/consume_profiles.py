"""`manage.py consume_profiles`: one member of the consumer group."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaException
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from profiles import connections, metrics, topics
from profiles.consumer import (
    MemberRefused,
    ProfileConsumer,
    RecordsMissing,
    StartOver,
)
from profiles.dead_letters import DeadLetterTopic
from profiles.upserts import StoreAway, StoreRefused, Table

_OPERATOR = (
    topics.KafkaUnavailable,
    topics.WrongTopic,
    MemberRefused,
    RecordsMissing,
    StoreRefused,
)
"""What ends the process with its message: here nothing is left to try."""


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

    def handle(self, *args: Any, **options: Any) -> None:
        """Consume; begin anew where the topic was recreated."""
        if settings.METRICS_PORT:
            address = "127.0.0.1" if settings.DEVELOPMENT else "0.0.0.0"  # noqa: S104
            metrics.serve(address, settings.METRICS_PORT)
        try:
            self._look_for_kafka()
            while not self._consume(options["until_caught_up"]):
                pass
        except _OPERATOR as error:
            raise CommandError(f"{error}.") from None
        except KafkaException as error:
            raise CommandError(
                f"Kafka's client can't work ({error.args[0].name()}): check KAFKA_CONFIG."
            ) from None

    def _look_for_kafka(self) -> None:
        try:
            topics.configured(connections.admin())
        except topics.TopicMissing:
            raise
        except topics.KafkaUnavailable as error:
            raise CommandError(
                f"{error}: start it on {settings.KAFKA_BOOTSTRAP_SERVERS} with "
                "`make local-dev-stack`, or set KAFKA_BOOTSTRAP_SERVERS."
            ) from None

    def _identity(self, table: Table) -> str:
        """Waits for the table; updates wait on the topic meanwhile."""
        while True:
            try:
                return table.identity()
            except StoreAway as error:
                self.stderr.write(
                    f"{error}: waiting for it on "
                    f"{settings.DYNAMODB_ENDPOINT_URL or 'AWS'}; locally, start it "
                    "with `make local-dev-stack`."
                )
                time.sleep(5)

    def _consume(self, until_caught_up: bool) -> bool:
        """Whether it is over; else the topic was recreated."""
        table = Table(connections.dynamodb(), settings.DYNAMODB_TABLE)
        consumer = ProfileConsumer(
            connections.consumer,
            topics.Enquiry(connections.admin),
            self._identity(table),
            table.apply,
            DeadLetterTopic(
                connections.dead_letter_producer, settings.KAFKA_DLQ_TOPIC
            ).put,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: consumer.stop())
        try:
            consumer.run(self.caught_up(consumer) if until_caught_up else _never)
        except StartOver as reason:
            self.stderr.write(f"{reason}: starting over")
            return False
        if until_caught_up and consumer.stopped:
            raise CommandError("Stopped before everything was read.")
        return True

    def caught_up(self, consumer: ProfileConsumer) -> Callable[[], bool]:
        """Whether we and, where others own partitions, the others are at the end."""
        group = connections.group_reader()

        def caught_up() -> bool:
            others = set(range(settings.KAFKA_PARTITIONS)) - consumer.owned
            return consumer.caught_up and (
                not others or topics.all_read(group, settings.KAFKA_TOPIC, others)
            )

        return caught_up


def _never() -> bool:
    return False
