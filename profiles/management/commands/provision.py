"""`manage.py provision`: topic, dead-letter topic and table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from confluent_kafka.admin import AdminClient
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, OutputWrapper

from profiles.dynamodb import client
from profiles.dynamodb.writer import TableWriter
from profiles.kafka import clients
from profiles.management import errors
from profiles.operate import provision
from profiles.operate.provision import Outcome

ATTEMPTS = 4


class Command(BaseCommand):
    """Creates what is missing; exit code 1 if something differs from the settings."""

    help = "Create the topics and the table; reports differences, and changes nothing."

    @errors.as_sentences()
    def handle(self, *args: Any, **options: Any) -> None:
        """Kafka first, then DynamoDB."""
        with clients.admin() as admin:
            report(chain(_topics(admin), table()), self.stdout)


def table() -> Iterator[Outcome]:
    """Provision the table, and prove an engine that is not AWS.

    Raises StoreUnavailable or StoreRefused.
    """
    dynamodb = client.connect(ATTEMPTS)
    outcome = provision.provision_table(dynamodb, settings.DYNAMODB_TABLE)
    yield outcome
    if settings.DYNAMODB_ENDPOINT_URL and not outcome.differences:
        # Here, not in a consumer: a killed one would leave the scratch item.
        TableWriter(dynamodb, settings.DYNAMODB_TABLE).prove()


def _topics(admin: AdminClient) -> Iterator[Outcome]:
    plans = provision.topic_plans(
        settings.KAFKA_TOPIC,
        settings.KAFKA_DLQ_TOPIC,
        settings.KAFKA_PARTITIONS,
        settings.KAFKA_RETENTION_MS,
    )
    for plan in plans:
        yield provision.provision_topic(admin, plan)


def report(outcomes: Iterable[Outcome], stdout: OutputWrapper) -> None:
    """Write each outcome; then raise CommandError if there were differences."""
    differences = 0
    for outcome in outcomes:
        stdout.write(f"{outcome.subject}: {outcome.state}")
        for difference in outcome.differences:
            stdout.write(f"{outcome.subject}: DIFFERENT: {difference}")
        differences += len(outcome.differences)
    if differences:
        raise CommandError(
            f"Nothing that exists was changed. Differences from the settings: {differences}."
        )
