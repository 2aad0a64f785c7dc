"""Operators' errors: a command that can't go on ends with one sentence and a code.

In: exceptions of Kafka, of DynamoDB and of their clients. Out: Django's CommandError,
which is printed without a traceback. An error of the program itself passes through.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError
from confluent_kafka import KafkaError, KafkaException
from django.conf import settings
from django.core.management.base import CommandError

from profiles.dynamodb.client import StoreRefused, StoreUnavailable
from profiles.kafka.reader import LogMoved
from profiles.kafka.topics import KafkaUnavailable, TopicMissing, WrongTopic

EXPECTED: tuple[type[Exception], ...] = (
    KafkaUnavailable,
    WrongTopic,
    LogMoved,
    KafkaException,
    StoreUnavailable,
    StoreRefused,
    BotoCoreError,
    FileNotFoundError,
    PermissionError,
)
"""What an operator can mend; the last two name files of the configuration."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell reports it."""


@contextmanager
def as_sentences(*further: type[Exception], returncode: int = 1) -> Iterator[None]:
    """Raise CommandError for the expected exceptions, and for `further` ones.

    `returncode` is the process's exit code. Also a decorator of `handle`.
    """
    try:
        yield
    except (*EXPECTED, *further) as error:
        raise CommandError(f"{sentence(error)}.", returncode=returncode) from None
    except KeyboardInterrupt:
        raise CommandError("Interrupted.", returncode=INTERRUPTED) from None


def sentence(error: Exception) -> str:
    """What happened, to what, and what to do; without the full stop."""
    match error:
        case KafkaException():
            return _of_kafka(error.args[0])
        case TopicMissing():
            return str(error)
        case KafkaUnavailable():
            return f"{error}: {_kafka_hint()}"
        case StoreUnavailable():
            return f"{error}: {_dynamodb_hint()}"
        case BotoCoreError():
            return f"no AWS client: {str(error).rstrip(': .')}: check AWS's settings"
        case OSError():
            return f"{error.filename}: {error.strerror}"
    return str(error)


def _of_kafka(error: KafkaError) -> str:
    if error.code() in _MISCONFIGURED:
        return f"Kafka's client can't be made: {error.str()}: check KAFKA_CONFIG"
    if error.code() < 0:  # the client's own error: no broker answered
        return f"Kafka does not answer ({error.name()}): {_kafka_hint()}"
    return f"Kafka refuses ({error.name()}): check the topics' names and this user's rights"


_MISCONFIGURED = {
    KafkaError._INVALID_ARG,
    KafkaError._CRIT_SYS_RESOURCE,
    KafkaError._FAIL,
}
"""How librdkafka refuses an unknown property, a bad value, and a file it can't load."""


def _kafka_hint() -> str:
    servers = f"KAFKA_BOOTSTRAP_SERVERS is {settings.KAFKA_BOOTSTRAP_SERVERS}"
    return f"{servers}; {_START_IT}" if settings.DEVELOPMENT else servers


def _dynamodb_hint() -> str:
    if not settings.DYNAMODB_ENDPOINT_URL:
        return "check the network, and the AWS credentials of this process"
    endpoint = f"DYNAMODB_ENDPOINT_URL is {settings.DYNAMODB_ENDPOINT_URL}"
    return f"{endpoint}; {_START_IT}" if settings.DEVELOPMENT else endpoint


_START_IT = "start it with `make local-dev-stack`"
