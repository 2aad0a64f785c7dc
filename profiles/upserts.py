"""The upserts: merged updates written to the table, each under its fence.

In: merged updates. Out: how many were applied or already there, and which are to be
tried again. One bounded attempt: whoever calls decides when to call again. Writes go
in batches of conditional statements, one write unit each; what a batch can't decide is
decided by one conditional `update_item`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, cast

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
)

from profiles import items
from profiles.updates import MergedUpdate, Source

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import BatchStatementRequestTypeDef

ATTEMPT_S = 1.0
STATEMENTS = 25
"""DynamoDB takes no more in one BatchExecuteStatement."""
CALLS = 4
"""Calls in flight at a time: each has patients of its own."""

Build = Callable[[str, MergedUpdate], "BatchStatementRequestTypeDef"]
Step = Callable[[list[MergedUpdate], "Outcome", float], list[MergedUpdate]]

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

_REFUSALS = {"ConditionalCheckFailed", "DuplicateItem"}


class StoreRefused(Exception):
    """The table refuses what it is asked: an operator has to act."""


class StoreAway(Exception):
    """DynamoDB does not answer, or not now: the same request may succeed later."""


@dataclass(slots=True)
class Outcome:
    """What one attempt came to; `remaining` keeps the order of each patient."""

    applied: int = 0
    already: int = 0
    remaining: list[MergedUpdate] = field(default_factory=list)
    trouble: str = ""
    created: int = 0

    def leave(self, updates: Sequence[MergedUpdate], trouble: str = "") -> None:
        """Leave these for the next attempt."""
        self.remaining.extend(updates)
        self.trouble = trouble or self.trouble

    def add(self, part: Outcome) -> None:
        """Take in what a part of the attempt came to."""
        self.applied += part.applied
        self.already += part.already
        self.created += part.created
        self.leave(part.remaining, part.trouble)


class Table:
    """The table as the consumer writes it."""

    def __init__(self, client: DynamoDBClient, name: str) -> None:
        self._client = client
        self._name = name
        self._pool = ThreadPoolExecutor(CALLS, thread_name_prefix="upserts")
        self._mostly_new = False
        self._skipped = 0

    def identity(self) -> str:
        """Names this incarnation of the table; another one is filled from the start.

        Raises StoreAway where DynamoDB does not answer, or StoreRefused.
        """
        try:
            table = self._client.describe_table(TableName=self._name)["Table"]
        except (BotoCoreError, ClientError) as error:
            raise StoreAway(self._trouble(error)) from None
        return items.incarnation(table)

    def prove(self) -> None:
        """Write a scratch item and see each condition hold and fail; then remove it.

        For engines that are not AWS: one that reads the fence's condition otherwise
        would lose updates in silence. Raises StoreRefused or StoreAway.
        """
        scratch = f"self-test {uuid.uuid4()}"
        try:
            answers = self._answers_about(scratch)
        except (BotoCoreError, ClientError) as error:
            raise StoreAway(self._trouble(error)) from None
        if answers != _PROVEN:
            raise StoreRefused(
                f"the engine of table {self._name} reads the condition otherwise "
                f"({', '.join(answers)}): it can't keep the order of updates"
            )

    def _answers_about(self, scratch: str) -> list[str]:
        try:
            return [
                self._say(build(self._name, _scratch_update(scratch, offset)))
                for build, offset in _PROOF
            ]
        finally:
            self._client.delete_item(
                TableName=self._name, Key={items.KEY: {"S": scratch}}
            )

    def _say(self, statement: BatchStatementRequestTypeDef) -> str:
        answer = self._client.batch_execute_statement(Statements=[statement])
        return str(answer["Responses"][0].get("Error", {}).get("Code", "written"))

    def apply(self, updates: Sequence[MergedUpdate]) -> Outcome:
        """Make one attempt of about ATTEMPT_S; raises StoreRefused.

        A refused condition counts as `already`: the item includes the update. A
        timeout is not an outcome: the write is tried again, and refused if it landed.
        """
        deadline = time.monotonic() + ATTEMPT_S
        now, later = _one_per_patient(updates)
        chunks = [now[i : i + STATEMENTS] for i in range(0, len(now), STATEMENTS)]
        outcome = Outcome()
        for part in self._pool.map(partial(self._apply_chunk, deadline), chunks):
            outcome.add(part)
        outcome.leave(later)
        self._learn(outcome)
        return outcome

    def _learn(self, outcome: Outcome) -> None:
        """Choose the steps of the next attempt.

        Where one call takes all the time of an attempt, its first step may be refused
        each time, and the others never come: what has led to nothing is skipped.
        """
        if outcome.applied:
            self._mostly_new = outcome.created > outcome.applied // 2
        if not outcome.remaining:
            self._skipped = 0
        elif not (outcome.applied or outcome.already or outcome.trouble):
            self._skipped = min(self._skipped + 1, 2)

    def _apply_chunk(self, deadline: float, chunk: list[MergedUpdate]) -> Outcome:
        """Each step takes what the one before it was refused."""
        outcome = Outcome()
        for step in self._steps(len(chunk)):
            if chunk:
                chunk = step(chunk, outcome, deadline)
        return outcome

    def _steps(self, size: int) -> list[Step]:
        """What most patients need comes first; only `_decide` is always right."""
        if size == 1:
            return [self._decide]
        steps: list[Step] = [self._update, self._create, self._decide]
        if self._mostly_new:
            steps = [self._create, self._update, self._decide]
        return steps[self._skipped :]

    def _update(
        self, chunk: list[MergedUpdate], outcome: Outcome, deadline: float
    ) -> list[MergedUpdate]:
        return self._execute(items.update_statement, chunk, outcome, deadline)

    def _create(
        self, chunk: list[MergedUpdate], outcome: Outcome, deadline: float
    ) -> list[MergedUpdate]:
        before = outcome.applied
        refused = self._execute(items.insert_statement, chunk, outcome, deadline)
        outcome.created += outcome.applied - before
        return refused

    def _execute(
        self,
        build: Build,
        chunk: list[MergedUpdate],
        outcome: Outcome,
        deadline: float,
    ) -> list[MergedUpdate]:
        """One call; every statement succeeds or fails alone. Returns the refused."""
        if time.monotonic() >= deadline:
            outcome.leave(chunk)
            return []
        statements = [build(self._name, update) for update in chunk]
        try:
            answer = self._client.batch_execute_statement(Statements=statements)
        except (BotoCoreError, ClientError) as error:
            outcome.leave(chunk, self._trouble(error))
            return []
        refused = []
        for update, response in zip(chunk, answer["Responses"], strict=True):
            code = response.get("Error", {}).get("Code")
            if code is None:
                outcome.applied += 1
            elif code in _REFUSALS:
                refused.append(update)
            else:
                outcome.leave([update], self._trouble_of(code))
        return refused

    def _decide(
        self, chunk: list[MergedUpdate], outcome: Outcome, deadline: float
    ) -> list[MergedUpdate]:
        """One conditional write each: between an update refused for want of an item and
        a creation refused for its presence, another writer may have made it.
        """
        for update in chunk:
            if time.monotonic() >= deadline:
                outcome.leave([update])
                continue
            try:
                self._client.update_item(**items.upsert(self._name, update))
                outcome.applied += 1
            except (BotoCoreError, ClientError) as error:
                if self._is_refused(error, update):
                    outcome.already += 1
                else:
                    outcome.leave([update], self._trouble(error))
        return []

    def _is_refused(
        self, error: BotoCoreError | ClientError, update: MergedUpdate
    ) -> bool:
        """Whether the fence refused the write, and rightly."""
        if not isinstance(error, ClientError) or _code(error) not in _REFUSALS:
            return False
        item = cast("items.Item", error.response.get("Item", {}))
        if not items.includes(item, update):
            raise StoreRefused(
                f"table {self._name} refused an update that its item does not "
                "include: this engine reads the condition otherwise"
            ) from None
        return True

    def _trouble(self, error: BotoCoreError | ClientError) -> str:
        """Why to try later; raises StoreRefused where that would not help.

        The answer's own text is left out, for it may quote values.
        """
        if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
            raise StoreRefused("no AWS credentials: configure them") from None
        if isinstance(error, BotoCoreError):
            return f"DynamoDB does not answer ({type(error).__name__})"
        if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
            return f"DynamoDB answers {_code(error)}"
        return self._trouble_of(_code(error))

    def _trouble_of(self, code: str) -> str:
        if code in _LATER:
            return f"DynamoDB answers {code}"
        if code == "ResourceNotFound":
            raise StoreRefused(
                f"table {self._name} does not exist: create it with "
                "`python manage.py provision`"
            ) from None
        raise StoreRefused(f"DynamoDB refuses table {self._name}: {code}") from None


_PROOF: list[tuple[Build, int]] = [
    (items.update_statement, 5),
    (items.insert_statement, 5),
    (items.insert_statement, 6),
    (items.update_statement, 5),
    (items.update_statement, 6),
    (items.update_statement, 10),
    (items.update_statement, 9),
]
_PROVEN = [
    "ConditionalCheckFailed",
    "written",
    "DuplicateItem",
    "ConditionalCheckFailed",
    "written",
    "written",
    "ConditionalCheckFailed",
]


def _scratch_update(patient_id: str, offset: int) -> MergedUpdate:
    return MergedUpdate(patient_id, {}, Source("self-test", 0), offset, 0)


def _one_per_patient(
    updates: Sequence[MergedUpdate],
) -> tuple[list[MergedUpdate], list[MergedUpdate]]:
    """The first update of each patient, and the rest for a next attempt.

    A patient has two where a foreign producer spread it over partitions; DynamoDB
    refuses a whole call in which two statements have one key.
    """
    now: dict[str, MergedUpdate] = {}
    later = [u for u in updates if now.setdefault(u.patient_id, u) is not u]
    return list(now.values()), later


def _code(error: ClientError) -> str:
    return error.response["Error"]["Code"].removesuffix("Exception")
