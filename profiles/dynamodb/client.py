"""DynamoDB's client, made from the settings, and what its errors mean.

Out: a client with short time-outs, for AWS or for the configured endpoint; for an error,
whether the same request may succeed later, or an operator has to act. Knows no item.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from django.conf import settings

from profiles.dynamodb.answers import AnswerInvalid, read_answer

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

CONNECT_S = 2
READ_S = 5


def connect(attempts: int = 1) -> DynamoDBClient:
    """A DynamoDB client that tries once: the consumer itself waits and tries again.

    Callers without a retry loop of their own pass more attempts. Raises StoreUnavailable
    or StoreRefused where the credentials can't be read.
    """
    config = Config(
        connect_timeout=CONNECT_S,
        read_timeout=READ_S,
        retries={"total_max_attempts": attempts},
        parameter_validation=False,
        max_pool_connections=16,
    )
    try:
        with reading_credentials():
            found = session()
            found.get_credentials()
    except BotoCoreError as error:
        raise StoreUnavailable(trouble(settings.DYNAMODB_TABLE, error)) from None
    client = found.client(
        "dynamodb", endpoint_url=settings.DYNAMODB_ENDPOINT_URL or None, config=config
    )
    client.meta.events.register(
        "provide-client-params.dynamodb", lambda **_: _renew(found)
    )
    client.meta.events.register("before-parse.dynamodb", _check)
    return client


def session() -> boto3.Session:
    """The standard chain; at an endpoint that is not AWS, with harmless defaults."""
    core = botocore.session.get_session()
    found = boto3.Session(
        region_name=settings.DYNAMODB_REGION or "us-east-1", botocore_session=core
    )
    if settings.DYNAMODB_ENDPOINT_URL and not found.get_credentials():
        core.set_credentials("test", "test")
    return found


@contextmanager
def reading_credentials() -> Iterator[None]:
    """Raises CredentialRetrievalError for whatever goes wrong.

    Credentials come from processes, files and services of others: a missing file is
    an OSError, an answer that is no JSON a ValueError, a refusal of STS a ClientError.
    """
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound):
        raise
    except Exception as error:
        why = type(error).__name__
        raise CredentialRetrievalError(provider="AWS", error_msg=why) from None


def _renew(found: boto3.Session) -> None:
    with reading_credentials():
        if credentials := found.get_credentials():
            credentials.get_frozen_credentials()


def _check(response_dict: dict[str, Any], operation_model: Any, **_: Any) -> None:
    """Before botocore's parser, which takes what is no answer for an empty one."""
    if response_dict["status_code"] < 300:
        headers = response_dict["headers"]
        kind, checksum = map(headers.get, ("content-type", "x-amz-crc32"))
        read_answer(operation_model.name, kind, checksum, response_dict["body"])


class StoreUnavailable(Exception):
    """DynamoDB does not answer, or not now: the same request may succeed later."""


class StoreRefused(Exception):
    """The table refuses the request: an operator has to act."""


def trouble(table: str, error: BotoCoreError | ClientError) -> str:
    """Why to try later; raises StoreRefused where that would not help.

    The answer's own text is left out, for it may quote values.
    """
    if isinstance(
        error, (NoCredentialsError, PartialCredentialsError, ProfileNotFound)
    ):
        raise StoreRefused("no AWS credentials: configure them") from None
    if isinstance(error, CredentialRetrievalError):
        return "the AWS credentials can't be read"
    if isinstance(error, AnswerInvalid):
        return str(error)
    if isinstance(error, BotoCoreError):
        return f"DynamoDB does not answer ({type(error).__name__})"
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    if status >= 500 or status in _LATER_STATUS:
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


_LATER_STATUS = {408, 429}
_LATER = {
    "BandwidthLimitExceeded",
    "InternalFailure",
    "InternalServerError",
    "KMSThrottling",
    "LimitExceeded",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceeded",
    "ReplicatedWriteConflict",
    "RequestLimitExceeded",
    "RequestThrottled",
    "ServiceUnavailable",
    "SlowDown",
    "Throttled",
    "Throttling",
    "ThrottlingError",
    "TooManyRequests",
    "TransactionConflict",
    "TransactionInProgress",
}
"""Codes, less the word Exception, after which the same request may succeed."""
