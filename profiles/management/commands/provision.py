"""`manage.py provision`: topic, dead-letter topic and table."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from profiles.dynamodb import client
from profiles.dynamodb.client import StoreRefused, StoreUnavailable
from profiles.dynamodb.writer import TableWriter
from profiles.kafka import clients
from profiles.operate import provision


class Command(BaseCommand):
    """Creates what is missing and tells what is different; changes nothing else."""

    help = "Create the topics and the table; run it as often as you like."

    def handle(self, *args: Any, **options: Any) -> None:
        """Kafka first, then DynamoDB."""
        with clients.admin() as admin:
            self._provision_topics(admin)
        self._provision_table()

    def _provision_topics(self, admin: AdminClient) -> None:
        plans = provision.topic_plans(
            settings.KAFKA_TOPIC,
            settings.KAFKA_DLQ_TOPIC,
            settings.KAFKA_PARTITIONS,
            settings.KAFKA_RETENTION_MS,
        )
        try:
            for plan in plans:
                self._tell(provision.provision_topic(admin, plan))
        except KafkaException as error:
            raise CommandError(_kafka_trouble(error.args[0])) from None

    def _provision_table(self) -> None:
        dynamodb = client.connect()
        try:
            self._tell(provision.provision_table(dynamodb, settings.DYNAMODB_TABLE))
            if settings.DYNAMODB_ENDPOINT_URL:
                # Here, not in a consumer: a killed one would leave the scratch item.
                TableWriter(dynamodb, settings.DYNAMODB_TABLE).prove()
        except (BotoCoreError, ClientError) as error:
            raise CommandError(_dynamodb_trouble(error)) from None
        except (StoreUnavailable, StoreRefused) as error:
            raise CommandError(f"{error}.") from None

    def _tell(self, sentences: Any) -> None:
        for sentence in sentences:
            self.stdout.write(sentence)


def _kafka_trouble(error: KafkaError) -> str:
    where = f"{settings.KAFKA_BOOTSTRAP_SERVERS} ({error.name()})"
    if error.code() < 0:  # the client's own word; a broker's is above
        return f"Kafka does not answer on {where}: start it with `make local-dev-stack`"
    return f"Kafka refuses on {where}: check the topics' names, and this user's rights"


def _dynamodb_trouble(error: BotoCoreError | ClientError) -> str:
    where = settings.DYNAMODB_ENDPOINT_URL or "AWS"
    if isinstance(error, ClientError):
        return (
            f"DynamoDB refuses on {where} ({error.response['Error']['Code']}): check "
            f"the table's name, {settings.DYNAMODB_TABLE}, and this process's rights"
        )
    told = f"DynamoDB does not answer on {where} ({type(error).__name__})"
    if settings.DYNAMODB_ENDPOINT_URL:
        return f"{told}: start it with `make local-dev-stack`"
    return f"{told}: check the network, and the AWS credentials of this process"
