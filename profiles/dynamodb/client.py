"""DynamoDB's client, made from the settings, and what its errors mean.

Out: a client with short time-outs, for AWS or for the configured endpoint; for an error,
whether the same request may succeed later, or an operator has to act. Knows no item.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from django.conf import settings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


def connect(attempts: int = 1) -> DynamoDBClient:
    """A DynamoDB client that tries once: the consumer itself waits and tries again.

    Callers without a retry loop of their own pass more attempts.
    """
    config = Config(
        connect_timeout=2,
        read_timeout=5,
        retries={"total_max_attempts": attempts},
        parameter_validation=False,
        max_pool_connections=16,
    )
    return _session().client(
        "dynamodb", endpoint_url=settings.DYNAMODB_ENDPOINT_URL or None, config=config
    )


def _session() -> boto3.Session:
    """The standard chain; at an endpoint that is not AWS, with harmless defaults."""
    session = boto3.Session(region_name=settings.DYNAMODB_REGION or "us-east-1")
    if not settings.DYNAMODB_ENDPOINT_URL or session.get_credentials():
        return session
    return boto3.Session("test", "test", region_name=session.region_name)


class StoreUnavailable(Exception):
    """DynamoDB does not answer, or not now: the same request may succeed later."""


class StoreRefused(Exception):
    """The table refuses what it is asked: an operator has to act."""


def trouble(table: str, error: BotoCoreError | ClientError) -> str:
    """Why to try later; raises StoreRefused where that would not help.

    The answer's own text is left out, for it may quote values.
    """
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        raise StoreRefused("no AWS credentials: configure them") from None
    if isinstance(error, BotoCoreError):
        return f"DynamoDB does not answer ({type(error).__name__})"
    if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
        return f"DynamoDB answers {code_of(error)}"
    return trouble_of(table, code_of(error))


def trouble_of(table: str, code: str) -> str:
    """As `trouble`, for the code of an answer or of one of its statements."""
    if code in _LATER:
        return f"DynamoDB answers {code}"
    if code == "ResourceNotFound":
        raise StoreRefused(
            f"table {table} does not exist: create it with `python manage.py provision`"
        ) from None
    raise StoreRefused(f"DynamoDB refuses table {table}: {code}") from None


def code_of(error: ClientError) -> str:
    """The error's code, less the word Exception."""
    return error.response["Error"]["Code"].removesuffix("Exception")


_LATER = {
    "InternalServerError",
    "InternalFailure",
    "ProvisionedThroughputExceeded",
    "ReplicatedWriteConflict",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingError",
    "TransactionConflict",
    "TransactionInProgress",
}
"""Answers, less the word Exception, that the same request may not meet again."""
