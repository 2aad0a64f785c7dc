"""DynamoDB's client, made from the settings.

Out: a client with short time-outs, for AWS or for the configured endpoint. Knows no
table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
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
