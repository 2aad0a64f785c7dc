"""The upserts: merged updates written to the table, each under its fence.

In: merged updates. Out: how many were applied or already there, and which are to be
tried again. One bounded attempt: whoever calls decides when to call again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
)

from profiles import items
from profiles.updates import MergedUpdate

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

ATTEMPT_S = 1.0

_LATER = {
    "InternalServerError",
    "InternalFailure",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ReplicatedWriteConflictException",
    "ServiceUnavailable",
    "ThrottlingException",
    "TransactionConflictException",
    "TransactionInProgressException",
}
"""Answers that the same request may not meet again."""


class StoreRefused(Exception):
    """The table refuses what it is asked: an operator has to act."""


@dataclass(slots=True)
class Outcome:
    """What one attempt came to; `remaining` is in the order it was given."""

    applied: int = 0
    already: int = 0
    remaining: list[MergedUpdate] = field(default_factory=list)
    trouble: str = ""


class StoreAway(Exception):
    """DynamoDB does not answer, or not now: the same request may succeed later."""


class Table:
    """The table as the consumer writes it."""

    def __init__(self, client: DynamoDBClient, name: str) -> None:
        self._client = client
        self._name = name

    def identity(self) -> str:
        """Names this incarnation of the table; another one is filled from the start.

        Raises StoreAway where DynamoDB does not answer, or StoreRefused.
        """
        try:
            table = self._client.describe_table(TableName=self._name)["Table"]
        except (BotoCoreError, ClientError) as error:
            raise self._verdict(error) from None
        created = int(table["CreationDateTime"].timestamp())
        return table.get("TableId") or f"created-{created}"

    def apply(self, updates: Sequence[MergedUpdate]) -> Outcome:
        """Make one attempt of about ATTEMPT_S; raises StoreRefused.

        A refused condition counts as `already`: the item includes the update. A
        timeout is not an outcome: the write is tried again, and refused if it landed.
        """
        outcome = Outcome()
        deadline = time.monotonic() + ATTEMPT_S
        for update in updates:
            if time.monotonic() >= deadline:
                outcome.remaining.append(update)
                continue
            try:
                self._write(update, outcome)
            except StoreAway as trouble:
                outcome.trouble = str(trouble)
                outcome.remaining.append(update)
        return outcome

    def _write(self, update: MergedUpdate, outcome: Outcome) -> None:
        try:
            self._client.update_item(**items.upsert(self._name, update))
            outcome.applied += 1
        except (BotoCoreError, ClientError) as error:
            if not _is_refusal(error):
                raise self._verdict(error) from None
            outcome.already += 1

    def _verdict(self, error: BotoCoreError | ClientError) -> Exception:
        """Later or never; the answer's own text is left out, for it may quote values."""
        if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
            return StoreRefused("no AWS credentials: configure them")
        if isinstance(error, BotoCoreError):
            return StoreAway(f"DynamoDB does not answer ({type(error).__name__})")
        code = error.response["Error"]["Code"]
        if (
            code in _LATER
            or error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500
        ):
            return StoreAway(f"DynamoDB answers {code}")
        if code == "ResourceNotFoundException":
            return StoreRefused(
                f"table {self._name} does not exist: create it with "
                "`python manage.py provision`"
            )
        return StoreRefused(f"DynamoDB refuses table {self._name}: {code}")


def _is_refusal(error: BotoCoreError | ClientError) -> bool:
    """Whether the fence refused the write: the item includes the update."""
    return (
        isinstance(error, ClientError)
        and error.response["Error"]["Code"] == "ConditionalCheckFailedException"
    )
