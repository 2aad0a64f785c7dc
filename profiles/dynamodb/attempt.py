"""The attempt: merged updates on their way into the table, each under its fence.

In: merged updates, at most one of a patient. Out: what came of each. An update takes
steps until one is decisive: an UPDATE of its item, an INSERT, and at last a conditional
`update_item`, whose condition covers every case. A refusal that returns the item decides
at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from botocore.exceptions import BotoCoreError, ClientError

from profiles.core import items
from profiles.core.updates import Incarnation, MergedUpdate
from profiles.dynamodb.answers import AnswerInvalid, Response
from profiles.dynamodb.client import StoreRefused, code_of, trouble, trouble_of
from profiles.dynamodb.window import Window

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

    from profiles.dynamodb.wire import Answer, Statements

ATTEMPT_S = 1.0
STATEMENTS = 25
"""DynamoDB takes no more in one BatchExecuteStatement."""

REFUSALS = {"ConditionalCheckFailed", "DuplicateItem"}
_INVALID = {"Validation", "ValidationError"}
"""Of a call, and of one statement: of a call of many, the writes show which item."""

Step = Callable[..., Any]
"""Builds a write from the table's name, an update, and our incarnation."""

UPDATE, INSERT, DECIDE = items.update_statement, items.insert_statement, items.upsert
NEW: Sequence[Step] = (INSERT, UPDATE, DECIDE)
KNOWN: Sequence[Step] = (UPDATE, *NEW)
"""The steps of a patient who is expected to be new, or to have an item. Between a refused
UPDATE (no item) and a refused INSERT (an item) another writer may have created it."""


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


@dataclass(frozen=True, slots=True)
class _Call:
    """The updates of one call, and when it was begun."""

    updates: list[MergedUpdate]
    begun: float


class Attempt:
    """One attempt of about ATTEMPT_S.

    `former` are the incarnations whose items we may adopt. `steps` are those that each
    patient's update has before it.
    """

    def __init__(
        self,
        client: DynamoDBClient,
        table: str,
        window: Window,
        ours: Incarnation,
        former: Collection[Incarnation],
    ) -> None:
        self._client = client
        self._table = table
        self._window = window
        self._ours = ours
        self._former = former
        self._deadline = time.monotonic() + ATTEMPT_S
        self._queue: deque[MergedUpdate] = deque()
        self._under_way = 0
        self._statements = STATEMENTS
        self.steps: dict[str, Sequence[Step]] = {}
        self.outcome = Outcome()

    # Out: what is to be sent

    def add(self, update: MergedUpdate, steps: Sequence[Step]) -> None:
        """Add an update, with the steps before it."""
        self.steps[update.patient_id] = steps
        if steps[0] is DECIDE:
            self._decide(update)
        else:
            self._queue.append(update)

    def next_call(self) -> tuple[_Call, Statements] | None:
        """The next call; None if the window is full, or after the deadline."""
        if not self._queue or self._under_way >= self._window.size or self._is_over:
            return None
        size = min(self._statements, len(self._queue))
        updates = [self._queue.popleft() for _ in range(size)]
        self._under_way += 1
        statements = [
            self.steps[update.patient_id][0](self._table, update, self._ours)
            for update in updates
        ]
        return _Call(updates, time.monotonic()), statements

    @property
    def _is_over(self) -> bool:
        return time.monotonic() >= self._deadline

    def end(self) -> Outcome:
        """The outcome; updates that were not sent remain."""
        self.outcome.leave(self._queue)
        return self.outcome

    # In: what came of it

    def take(self, call: _Call, answer: Answer) -> None:
        """Take an answer in: one response per statement, or an error of the whole call."""
        self._under_way -= 1
        if isinstance(answer, (BotoCoreError, ClientError)):
            self._take_error(call.updates, answer)
            return
        if len(call.updates) == STATEMENTS and not self.outcome.trouble:
            self._window.answered(time.monotonic() - call.begun)
        for update, response in zip(call.updates, answer, strict=True):
            self._take_response(update, response)

    def _take_error(
        self, updates: list[MergedUpdate], error: BotoCoreError | ClientError
    ) -> None:
        if not (isinstance(error, ClientError) and code_of(error) in _INVALID):
            self.outcome.leave(updates, trouble(self._table, error))
        elif len(updates) == 1:
            message = error.response["Error"].get("Message", "")
            raise self._invalid(updates[0], message) from None
        else:
            self._statements = 1
            self._queue.extend(updates)

    def _take_response(self, update: MergedUpdate, response: Response) -> None:
        if response.error is None:
            self._applied(update)
        elif response.error.code in REFUSALS:
            self._refused(update, cast("items.Item", response.error.item))
        elif response.error.code in _INVALID:
            raise self._invalid(update, response.error.message) from None
        else:
            why = trouble_of(self._table, response.error.code)
            self.outcome.leave([update], why)

    def _applied(self, update: MergedUpdate) -> None:
        self.outcome.applied += 1
        self.outcome.created += self.steps[update.patient_id][0] is INSERT

    def _decide(self, update: MergedUpdate) -> None:
        """Write with the one condition that covers every case."""
        if self._is_over:
            self.outcome.leave([update])
            return
        call = items.upsert(self._table, update, self._ours)
        call["ReturnValues"] = "UPDATED_NEW"
        try:
            answer = self._client.update_item(**call)
        except (BotoCoreError, ClientError) as error:
            self._not_decided(update, error)
            return
        if items.includes(answer.get("Attributes", {}), update):
            self._applied(update)
        else:
            unproven = AnswerInvalid(why="it does not show the fence")
            self.outcome.leave([update], trouble(self._table, unproven))

    def _not_decided(
        self, update: MergedUpdate, error: BotoCoreError | ClientError
    ) -> None:
        if isinstance(error, ClientError) and code_of(error) in REFUSALS:
            item = cast("items.Item", error.response.get("Item", {}))
            self._refused(update, item)
        else:
            self._take_error([update], error)

    # What a refusal means

    def _refused(self, update: MergedUpdate, item: items.Item) -> None:
        """Go on to the next step, unless the returned item decides."""
        following = self.steps[update.patient_id][1:]
        if item or not following:
            self._judge(update, item)
        else:
            self.add(update, following)

    def _judge(self, update: MergedUpdate, item: items.Item) -> None:
        """Decide by the item that a refusal returned.

        It includes the update; or a former incarnation has marked it, and it is to be
        adopted; or an unknown one has, and the update waits. Raises StoreRefused if mark
        or fence is damaged, or if the item does not explain the refusal.
        """
        held = items.held_by(item)
        if held is None and items.MARK in item:
            raise self._damaged(update, f"its {items.MARK} is no text") from None
        trusted = items.trusts_fence(held, self._ours)
        if trusted and not items.has_sound_fence(item, update.source):
            name = items.fence_name(update.source)
            raise self._damaged(update, f"its {name} is no offset") from None
        if trusted and items.includes(item, update):
            self.outcome.already += 1
        elif not item or held == self._ours:
            self._not_explained(update)
        elif held is None or held in self._former:
            self.add(update, (partial(items.adopt_statement, held=held), DECIDE))
        else:
            self.outcome.leave([update])
            self.outcome.unknown.add(held)
            del self.steps[update.patient_id]

    def _not_explained(self, update: MergedUpdate) -> None:
        """Go on if another writer of ours adopted the item just now.

        UPDATE and DECIDE are meant for such an item: a correct engine never refuses
        them. Raises StoreRefused.
        """
        if self.steps[update.patient_id][0] in (UPDATE, DECIDE):
            raise StoreRefused(
                f"table {self._table} refused an update that its item does not "
                "include: this engine evaluates the condition differently"
            ) from None
        self.add(update, KNOWN)

    def _invalid(self, update: MergedUpdate, message: str) -> StoreRefused:
        """The answer's own text is left out, because it may quote values."""
        if "item size" in message.lower():
            why = "it would be larger than the 400 KB that DynamoDB allows"
        else:
            why = "DynamoDB answers ValidationException"
        return self._damaged(update, why)

    def _damaged(self, update: MergedUpdate, why: str) -> StoreRefused:
        """Names the item that an operator has to mend, and the update that waits."""
        return StoreRefused(
            f"the item of patient {update.patient_id} in table {self._table} can't be "
            f"written: {why}; the update in partition {update.source.partition} at "
            f"offset {update.offset} waits for it. Mend the item as "
            "docs/operations.md describes under 'A damaged item'"
        )
