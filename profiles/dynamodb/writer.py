"""The writer: merged updates written to the table, each under its fence.

In: merged updates. Out: how many were applied or already there, which are to be tried
again, and which unknown incarnations hold items. One bounded attempt: whoever calls
decides when to call again. Writes go in batches of conditional statements, one write
unit each; what a batch can't decide is decided by one conditional `update_item`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
)

from profiles.core import items
from profiles.core.updates import Incarnation, MergedUpdate, Source
from profiles.dynamodb.client import (
    StoreRefused,
    StoreUnavailable,
    code_of,
    trouble,
    trouble_of,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import (
        BatchStatementRequestTypeDef,
        BatchStatementResponseTypeDef,
    )

ATTEMPT_S = 1.0
STATEMENTS = 25
"""DynamoDB takes no more in one BatchExecuteStatement."""
CALLS = 4
"""Calls in flight at a time: each has patients of its own."""

Build = Callable[[str, MergedUpdate], "BatchStatementRequestTypeDef"]
Step = Callable[[list[MergedUpdate], "Outcome", "_Attempt"], list[MergedUpdate]]

_REFUSALS = {"ConditionalCheckFailed", "DuplicateItem"}
_INVALID = {"Validation", "ValidationError"}
"""Of a call, and of one statement: of a call of many, the writes show which item."""


@dataclass(slots=True)
class Outcome:
    """What one attempt came to; `remaining` keeps the order of each patient.

    `unknown` are incarnations that hold items of those which remain.
    """

    applied: int = 0
    already: int = 0
    remaining: list[MergedUpdate] = field(default_factory=list)
    trouble: str = ""
    created: int = 0
    unknown: set[Incarnation] = field(default_factory=set)

    def leave(self, updates: Sequence[MergedUpdate], trouble: str = "") -> None:
        """Leave these for the next attempt."""
        self.remaining.extend(updates)
        self.trouble = trouble or self.trouble

    def add(self, part: Outcome) -> None:
        """Take in what a part of the attempt came to."""
        self.applied += part.applied
        self.already += part.already
        self.created += part.created
        self.unknown |= part.unknown
        self.leave(part.remaining, part.trouble)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt: until when, for which incarnation, and which are former ones.

    `held` is by patient who has marked an item that is to be adopted; None: nobody.
    """

    deadline: float
    ours: Incarnation
    former: Collection[Incarnation]
    held: dict[str, Incarnation | None] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.deadline

    def split(
        self, chunk: list[MergedUpdate]
    ) -> tuple[list[MergedUpdate], list[MergedUpdate]]:
        """Those whose item is to be adopted, and the others."""
        known = [update for update in chunk if update.patient_id in self.held]
        return known, [u for u in chunk if u.patient_id not in self.held]


class TableWriter:
    """The table as the consumer writes it."""

    def __init__(self, client: DynamoDBClient, name: str) -> None:
        self._client = client
        self._name = name
        self._pool = ThreadPoolExecutor(CALLS, thread_name_prefix="upserts")
        self._mostly_new = False
        self._skipped = 0

    def identity(self) -> str:
        """Names this incarnation of the table; another one is filled from the start.

        Raises StoreUnavailable where DynamoDB does not answer, or StoreRefused.
        """
        try:
            table = self._client.describe_table(TableName=self._name)["Table"]
        except (BotoCoreError, ClientError) as error:
            raise StoreUnavailable(trouble(self._name, error)) from None
        return items.table_id(table)

    def prove(self) -> None:
        """Write a scratch item and see each condition hold and fail; then remove it.

        For engines that are not AWS: one that reads a condition otherwise would lose
        updates in silence. Raises StoreRefused or StoreUnavailable.
        """
        scratch = f"self-test {uuid.uuid4()}"
        try:
            answers = self._answers_about(scratch)
        except (BotoCoreError, ClientError) as error:
            raise StoreUnavailable(trouble(self._name, error)) from None
        if answers != [answer for _, _, answer in _PROOF]:
            raise StoreRefused(
                f"the engine of table {self._name} reads the condition otherwise "
                f"({', '.join(answers)}): it can't keep the order of updates"
            )

    def _answers_about(self, scratch: str) -> list[str]:
        try:
            return [
                self._say(build(self._name, _scratch_update(scratch, offset)))
                for build, offset, _ in _PROOF
            ]
        finally:
            self._client.delete_item(
                TableName=self._name, Key={items.KEY: {"S": scratch}}
            )

    def _say(self, call: Any) -> str:
        """What a statement, or an `update_item`, is answered."""
        if "Statement" in call:
            answer = self._client.batch_execute_statement(Statements=[call])
            return str(answer["Responses"][0].get("Error", {}).get("Code", _WRITTEN))
        try:
            self._client.update_item(**call)
        except ClientError as error:
            if code_of(error) in _REFUSALS:
                return code_of(error)
            raise
        return _WRITTEN

    def apply(
        self,
        updates: Sequence[MergedUpdate],
        ours: Incarnation,
        former: Collection[Incarnation] = (),
    ) -> Outcome:
        """Make one attempt of about ATTEMPT_S; raises StoreRefused.

        A refusal by the fence counts as `already`: the item includes the update. A
        timeout is not an outcome: the write is tried again, and refused if it landed.
        An item that a former incarnation has marked is adopted; one that is marked by
        any other is left, and its incarnation told.
        """
        attempt = _Attempt(time.monotonic() + ATTEMPT_S, ours, former)
        now, later = _one_per_patient(updates)
        chunks = [now[i : i + STATEMENTS] for i in range(0, len(now), STATEMENTS)]
        outcome = Outcome()
        for part in self._pool.map(partial(self._apply_chunk, attempt), chunks):
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
        moved = outcome.applied or outcome.already or outcome.unknown
        if not outcome.remaining:
            self._skipped = 0
        elif not (moved or outcome.trouble):
            self._skipped = min(self._skipped + 1, 2)

    def _apply_chunk(self, attempt: _Attempt, chunk: list[MergedUpdate]) -> Outcome:
        """Each step takes what the one before it was refused."""
        outcome = Outcome()
        for step in self._steps(len(chunk)):
            if chunk:
                chunk = step(chunk, outcome, attempt)
        return outcome

    def _steps(self, size: int) -> list[Step]:
        """What most patients need comes first; only `_decide` is always right."""
        if size == 1:
            return [self._decide]
        steps: list[Step] = [self._update, self._create, self._adopt, self._decide]
        if self._mostly_new:
            steps = [self._create, self._update, self._adopt, self._decide]
        return steps[self._skipped :]

    def _update(
        self, chunk: list[MergedUpdate], outcome: Outcome, attempt: _Attempt
    ) -> list[MergedUpdate]:
        build = partial(items.update_statement, ours=attempt.ours)
        return self._execute(build, chunk, outcome, attempt)

    def _create(
        self, chunk: list[MergedUpdate], outcome: Outcome, attempt: _Attempt
    ) -> list[MergedUpdate]:
        before = outcome.applied
        build = partial(items.insert_statement, ours=attempt.ours)
        known, others = attempt.split(chunk)
        refused = self._execute(build, others, outcome, attempt)
        outcome.created += outcome.applied - before
        return known + refused

    def _adopt(
        self, chunk: list[MergedUpdate], outcome: Outcome, attempt: _Attempt
    ) -> list[MergedUpdate]:
        """Those whose item was seen to be marked by a former incarnation, or none."""

        def build(table: str, update: MergedUpdate) -> BatchStatementRequestTypeDef:
            held = attempt.held[update.patient_id]
            return items.adopt_statement(table, update, attempt.ours, held)

        known, others = attempt.split(chunk)
        return others + self._execute(build, known, outcome, attempt)

    def _execute(
        self,
        build: Build,
        chunk: list[MergedUpdate],
        outcome: Outcome,
        attempt: _Attempt,
    ) -> list[MergedUpdate]:
        """One call; every statement succeeds or fails alone. Returns the refused."""
        if not chunk or attempt.is_over:
            outcome.leave(chunk)
            return []
        statements = [build(self._name, update) for update in chunk]
        try:
            answer = self._client.batch_execute_statement(Statements=statements)
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and code_of(error) in _INVALID:
                if len(chunk) == 1:
                    raise self._invalid(chunk[0], error.response["Error"]) from None
                return chunk
            outcome.leave(chunk, trouble(self._name, error))
            return []
        answers = zip(chunk, answer["Responses"], strict=True)
        return [u for u, said in answers if self._is_refused(u, said, outcome, attempt)]

    def _is_refused(
        self,
        update: MergedUpdate,
        response: BatchStatementResponseTypeDef,
        outcome: Outcome,
        attempt: _Attempt,
    ) -> bool:
        """Whether the next step has to take it; else its outcome is noted."""
        refusal = response.get("Error", {})
        code, item = refusal.get("Code"), refusal.get("Item")
        if code is None:
            outcome.applied += 1
        elif code in _INVALID:
            raise self._invalid(update, refusal) from None
        elif code in _REFUSALS:
            return not (item and self._is_settled(update, item, outcome, attempt))
        else:
            outcome.leave([update], trouble_of(self._name, code))
        return False

    def _decide(
        self, chunk: list[MergedUpdate], outcome: Outcome, attempt: _Attempt
    ) -> list[MergedUpdate]:
        """One conditional write each: between an update refused for want of an item and
        a creation refused for its presence, another writer may have made it.
        """
        for update in chunk:
            if attempt.is_over:
                outcome.leave([update])
            elif not self._is_decided(update, outcome, attempt):
                outcome.leave(self._adopt([update], outcome, attempt))
        return []

    def _is_decided(
        self, update: MergedUpdate, outcome: Outcome, attempt: _Attempt
    ) -> bool:
        """Whether one write has settled it; else its item is to be adopted.

        Raises StoreRefused where the item can't be written.
        """
        try:
            self._client.update_item(**items.upsert(self._name, update, attempt.ours))
            outcome.applied += 1
        except (BotoCoreError, ClientError) as error:
            code = code_of(error) if isinstance(error, ClientError) else ""
            if isinstance(error, ClientError) and code in _INVALID:
                raise self._invalid(update, error.response["Error"]) from None
            if isinstance(error, ClientError) and code in _REFUSALS:
                item = cast("items.Item", error.response.get("Item", {}))
                return self._is_settled(update, item, outcome, attempt)
            outcome.leave([update], trouble(self._name, error))
        return True

    def _is_settled(
        self,
        update: MergedUpdate,
        item: items.Item,
        outcome: Outcome,
        attempt: _Attempt,
    ) -> bool:
        """Whether this attempt is done with an update that its item has refused.

        Else the item is to be adopted. Raises StoreRefused where mark or fence is
        damaged, or the item shows no cause for the refusal.
        """
        held = items.held_by(item)
        if held is None and items.MARK in item:
            raise self._damaged(update, f"its {items.MARK} is no text") from None
        trusted = items.trusts_fence(held, attempt.ours)
        if trusted and not items.has_sound_fence(item, update.source):
            name = items.fence_name(update.source)
            raise self._damaged(update, f"its {name} is no offset") from None
        if trusted and items.includes(item, update):
            outcome.already += 1
        elif not item or held == attempt.ours:
            raise StoreRefused(
                f"table {self._name} refused an update that its item does not "
                "include: this engine reads the condition otherwise"
            ) from None
        elif held is None or held in attempt.former:
            attempt.held[update.patient_id] = held
            return False
        else:
            outcome.leave([update])
            outcome.unknown.add(held)
        return True

    def _invalid(
        self, update: MergedUpdate, refusal: Mapping[str, Any]
    ) -> StoreRefused:
        """The answer's own text is left out: it may quote values."""
        if "item size" in refusal.get("Message", "").lower():
            why = "it would be larger than the 400 KB that DynamoDB allows"
        else:
            why = "DynamoDB answers ValidationException"
        return self._damaged(update, why)

    def _damaged(self, update: MergedUpdate, why: str) -> StoreRefused:
        """Names the item that an operator has to mend, and the update that waits."""
        return StoreRefused(
            f"the item of patient {update.patient_id} in table {self._name} can't be "
            f"written: {why}; the update in partition {update.source.partition} at "
            f"offset {update.offset} waits for it. Mend the item as "
            "docs/operations.md describes under 'A damaged item'"
        )


def _unmark(table: str, update: MergedUpdate) -> BatchStatementRequestTypeDef:
    """As an earlier release left an item."""
    where = f'WHERE "{items.KEY}"=?'
    statement = f'UPDATE "{table}" REMOVE "{items.MARK}" {where}'
    return {"Statement": statement, "Parameters": [{"S": update.patient_id}]}


def _damaged(table: str, update: MergedUpdate) -> BatchStatementRequestTypeDef:
    """As somebody else may leave an item."""
    fence = items.fence_name(update.source)
    text = f'UPDATE "{table}" SET "{fence}"=? WHERE "{items.KEY}"=?'  # noqa: S608 names
    return {"Statement": text, "Parameters": [{"S": ""}, {"S": update.patient_id}]}


_OURS = Incarnation("self-test", "table")
_NEXT_TOPIC = Incarnation("next", "table")
_NEXT_TABLE = Incarnation("next", "next")
_WRITTEN, _REFUSED, _THERE = "written", "ConditionalCheckFailed", "DuplicateItem"
_update, _adopt = items.update_statement, items.adopt_statement

_PROOF: list[tuple[Callable[[str, MergedUpdate], object], int, str]] = [
    (partial(_update, ours=_OURS), 4, _REFUSED),  # no item
    (partial(items.upsert, ours=_OURS), 4, _WRITTEN),
    (partial(items.upsert, ours=_OURS), 4, _REFUSED),
    (partial(items.upsert, ours=_OURS), 5, _WRITTEN),
    (partial(items.insert_statement, ours=_OURS), 6, _THERE),
    (partial(_update, ours=_OURS), 5, _REFUSED),
    (partial(_update, ours=_OURS), 6, _WRITTEN),
    (partial(_update, ours=_OURS), 10, _WRITTEN),
    (partial(_update, ours=_OURS), 9, _REFUSED),
    (_unmark, 0, _WRITTEN),
    (partial(_update, ours=_OURS), 11, _REFUSED),
    (partial(items.upsert, ours=_OURS), 11, _REFUSED),
    (partial(_adopt, ours=_OURS, held=None), 10, _REFUSED),
    (partial(_adopt, ours=_OURS, held=None), 11, _WRITTEN),
    (partial(_adopt, ours=_OURS, held=None), 12, _REFUSED),
    (partial(_update, ours=_NEXT_TOPIC), 12, _REFUSED),
    (partial(items.upsert, ours=_NEXT_TOPIC), 12, _REFUSED),
    (partial(_adopt, ours=_NEXT_TOPIC, held=_OURS), 11, _REFUSED),
    (partial(_adopt, ours=_NEXT_TOPIC, held=_OURS), 12, _WRITTEN),
    (partial(_adopt, ours=_NEXT_TABLE, held=_OURS), 13, _REFUSED),
    (partial(_adopt, ours=_NEXT_TABLE, held=_NEXT_TOPIC), 3, _WRITTEN),
    (partial(_update, ours=_NEXT_TABLE), 4, _WRITTEN),
    (_damaged, 0, _WRITTEN),
    (partial(_update, ours=_NEXT_TABLE), 13, _REFUSED),
    (partial(items.upsert, ours=_NEXT_TABLE), 13, _REFUSED),
]
"""What is asked of a scratch item, at which offset, and what the answer has to be."""


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
