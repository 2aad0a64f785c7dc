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


class _Later(Exception):
    """This one write may succeed when it is tried again."""


class Table:
    """The table as the consumer writes it."""

    def __init__(self, client: DynamoDBClient, name: str) -> None:
        self._client = client
        self._name = name

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
            except _Later as trouble:
                outcome.trouble = str(trouble)
                outcome.remaining.append(update)
        return outcome

    def _write(self, update: MergedUpdate, outcome: Outcome) -> None:
        try:
            self._client.update_item(**items.upsert(self._name, update))
            outcome.applied += 1
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code != "ConditionalCheckFailedException":
                raise self._verdict(error, code) from None
            outcome.already += 1
        except (NoCredentialsError, PartialCredentialsError):
            raise StoreRefused("no AWS credentials: configure them") from None
        except BotoCoreError as error:
            raise _Later(f"DynamoDB does not answer ({type(error).__name__})") from None

    def _verdict(self, error: ClientError, code: str) -> Exception:
        """Later or never; the answer's own text is left out, for it may quote values."""
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if code in _LATER or status >= 500:
            return _Later(f"DynamoDB answers {code}")
        if code == "ResourceNotFoundException":
            return StoreRefused(
                f"table {self._name} does not exist: create it with "
                "`python manage.py provision`"
            )
        return StoreRefused(f"DynamoDB refuses to write table {self._name}: {code}")
