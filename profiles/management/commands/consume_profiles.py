"""`manage.py consume_profiles`: one member of the consumer group."""

from __future__ import annotations

import signal
from functools import partial
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from profiles import connections, topics
from profiles.consumer import ProfileConsumer, RecordsMissing, StartOver
from profiles.dead_letters import DeadLetterTopic
from profiles.upserts import StoreRefused, Table


class Command(BaseCommand):
    """Merges the updates into the table until SIGTERM or Ctrl-C."""

    help = "Consume the topic and merge the updates into the table."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--until-caught-up",
            action="store_true",
            help="end with exit code 0 once every partition is read to its end",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Consume; begin anew where the topic was recreated."""
        try:
            while not self._consume(options["until_caught_up"]):
                pass
        except (
            topics.KafkaUnavailable,
            topics.WrongTopic,
            RecordsMissing,
            StoreRefused,
        ) as error:
            raise CommandError(f"{error}.") from None

    def _consume(self, until_caught_up: bool) -> bool:
        """Whether it is over; else the topic was recreated."""
        consumer = ProfileConsumer(
            connections.consumer(),
            partial(topics.configured, connections.admin()),
            Table(connections.dynamodb(), settings.DYNAMODB_TABLE).apply,
            DeadLetterTopic(
                connections.dead_letter_producer(), settings.KAFKA_DLQ_TOPIC
            ).put,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: consumer.stop())
        try:
            if until_caught_up:
                consumer.run(until=partial(_caught_up, consumer))
            else:
                consumer.run()
        except StartOver as reason:
            self.stderr.write(f"{reason}: starting over")
            return False
        return True


def _caught_up(consumer: ProfileConsumer) -> bool:
    return len(consumer.at_end) == settings.KAFKA_PARTITIONS
