"""The writer: merged updates written to the table, each under its fence.

In: merged updates. Out: how many were applied or already there, which are to be tried
again, and which unknown incarnations hold items. One bounded attempt: the caller
decides when to call again. Writes go in calls of conditional statements, one write unit
each, several calls at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from profiles.core import items
from profiles.core.updates import Incarnation, MergedUpdate
from profiles.dynamodb import self_test
from profiles.dynamodb.attempt import KNOWN, NEW, Attempt, Outcome, Step
from profiles.dynamodb.client import StoreUnavailable, trouble
from profiles.dynamodb.window import Window
from profiles.dynamodb.wire import BotocoreWire, Wire

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


class TableWriter:
    """The table as the consumer writes it.

    `wire` carries the statements; the default is botocore's client, which is slower.
    """

    def __init__(
        self, client: DynamoDBClient, name: str, wire: Wire | None = None
    ) -> None:
        self._client = client
        self._name = name
        self._wire = wire or BotocoreWire(client)
        self._window = Window()
        self._first = KNOWN
        self._ours: Incarnation | None = None
        self._steps: dict[str, Sequence[Step]] = {}

    def identity(self) -> str:
        """The id of this incarnation of the table; another one is filled from the start.

        Raises StoreUnavailable where DynamoDB does not answer, or StoreRefused.
        """
        try:
            table = self._client.describe_table(TableName=self._name)["Table"]
        except (BotoCoreError, ClientError) as error:
            raise StoreUnavailable(trouble(self._name, error)) from None
        return items.table_id(table)

    def prove(self) -> None:
        """Prove that the engine reads each condition as AWS does, on a scratch item.

        Raises StoreRefused or StoreUnavailable.
        """
        try:
            self_test.prove(self._client, self._name)
        except (BotoCoreError, ClientError) as error:
            raise StoreUnavailable(trouble(self._name, error)) from None

    def apply(
        self,
        updates: Sequence[MergedUpdate],
        ours: Incarnation,
        former: Collection[Incarnation] = (),
    ) -> Outcome:
        """Make one attempt of about a second; raises StoreRefused.

        A refusal by the fence counts as `already`: the item includes the update. A
        timeout is not an outcome: the write is tried again, and refused if it landed.
        An item that a former incarnation has marked is adopted; one with any other mark
        is left, and its incarnation reported. Never two writes of one patient at a time.
        """
        if ours != self._ours:
            self._ours, self._steps = ours, {}
        now, later = _one_per_patient(updates)
        attempt = Attempt(self._client, self._name, self._window, ours, former)
        for update in now:
            attempt.add(update, self._steps.get(update.patient_id, self._first))
        with closing(self._wire.run(attempt.next_call)) as answers:
            for call, answer in answers:
                attempt.take(call, answer)
        outcome = attempt.end()
        self._learn(attempt.steps, outcome)
        outcome.leave(later)
        return outcome

    def _learn(self, steps: dict[str, Sequence[Step]], outcome: Outcome) -> None:
        """Remember for the next attempt which step each update has come to.

        So an update takes each step once, even if a call takes as long as an attempt.
        """
        left = {update.patient_id for update in outcome.remaining}
        self._steps = {who: steps[who] for who in left & steps.keys()}
        if done := outcome.applied + outcome.already:
            self._first = NEW if outcome.created > done // 2 else KNOWN
        if outcome.trouble:
            self._window.halve()


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
