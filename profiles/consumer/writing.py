"""Writing: the second of three rooms. A batch goes into the table.

In: a batch. Out: its updates in the table and its dead letters on their topic, in as many
attempts as that takes. Each attempt runs in a thread beside the loop, and there is never
more than one. What writes is passed in. Knows no Kafka client and no DynamoDB.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol

from profiles.consumer.batches import Batch
from profiles.consumer.changes import ChangeDetector
from profiles.consumer.waiting import Stop
from profiles.core.records import DeadLetter, Headers
from profiles.core.updates import Incarnation, MergedUpdate
from profiles.kafka.topics import KafkaUnavailable
from profiles.runtime import metrics, tracing

log = logging.getLogger(__name__)


class Outcome(Protocol):
    """The result of one attempt to apply updates."""

    @property
    def applied(self) -> int: ...
    @property
    def already(self) -> int: ...
    @property
    def remaining(self) -> list[MergedUpdate]: ...
    @property
    def trouble(self) -> str: ...
    @property
    def unknown(self) -> Collection[Incarnation]: ...


Apply = Callable[
    [Sequence[MergedUpdate], Incarnation, Collection[Incarnation]], Outcome
]
PutDeadLetters = Callable[[Sequence[DeadLetter]], list[DeadLetter]]


class BatchWriter:
    """Writes one batch after another, each in one attempt after another.

    `apply` and `put_dead_letters` make one attempt each, and return what is to be tried
    again. `apply` is given our incarnation of topic and table, and the former ones whose
    items it may take over. It runs in the writer's thread; all else in the loop's.
    """

    def __init__(
        self,
        apply: Apply,
        put_dead_letters: PutDeadLetters,
        changes: ChangeDetector,
        stop: Stop,
    ) -> None:
        self._apply = apply
        self._put_dead_letters = put_dead_letters
        self._changes = changes
        self._stop = stop
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._attempt: Future[Outcome | None] | None = None
        self._is_proven = False
        self._former: set[Incarnation] = set()
        self._unknown: set[Incarnation] = set()
        self.batch = Batch()
        """The batch that is being written, or was last."""

    def begin(self, batch: Batch) -> None:
        """Make the first attempt to write a batch. The one before has to be written."""
        self.batch = batch
        self._is_proven = False
        metrics.coalesced.inc(batch.merge())
        self.attempt()

    def attempt(self) -> None:
        """Begin to write what is left of the batch, unless Kafka or the table is away.

        Raises StartOver.
        """
        if self._prove() and self._changes.is_same_table():
            self._admit_former()
            updates, headers = [*self.batch.updates], self.batch.carried
            self._attempt = self._thread.submit(self._apply_once, updates, headers)

    def wait(self, seconds: float) -> bool:
        """Wait until no attempt is under way; False where that takes longer."""
        if self._attempt is not None:
            wait([self._attempt], seconds)
        return self._attempt is None or self._attempt.done()

    def end_attempt(self) -> bool:
        """Note what the attempt came to, if one was made; whether the batch is written.

        Raises what `apply` raises.
        """
        if self._attempt is None:
            return self.batch.size == 0
        attempt, self._attempt = self._attempt, None
        if (outcome := attempt.result()) is not None:
            self._note(outcome)
        if self.batch.letters and not self._stop.is_overdue:
            self._write_dead_letters(self.batch)
        return self.batch.size == 0

    def close(self) -> None:
        """Wait for an attempt that is under way: no other consumer may write beside it."""
        self._thread.shutdown()

    def _apply_once(
        self, updates: Sequence[MergedUpdate], headers: Sequence[Headers]
    ) -> Outcome | None:
        """The attempt, in the writer's thread."""
        if not updates:
            return None
        with tracing.applying(headers):
            return self._apply(updates, self._changes.incarnation, self._former)

    def _prove(self) -> bool:
        """Whether the topic's id, read after the records, is the one they are given.

        A recreated topic begins at offset 0 again. Under the old id its records would
        reach, or move, fences of other records.
        """
        try:
            if not self._is_proven:
                self._changes.check_topic()
                self._is_proven = True
        except KafkaUnavailable as error:
            log.warning("waiting for Kafka: %s", error)
        return self._is_proven

    def _note(self, outcome: Outcome) -> None:
        batch = self.batch
        _measure(batch.updates, outcome)
        batch.keep(outcome.remaining)
        batch.applied += outcome.applied
        batch.already += outcome.already
        if outcome.trouble:
            log.warning("waiting for the table: %s", outcome.trouble)
        if outcome.unknown:
            self._unknown |= {*outcome.unknown}
            self._is_proven = False
            self._changes.forget_table()

    def _admit_former(self) -> None:
        """Take over the items of incarnations that we did not know.

        Topic and table were read again after we saw these, and are still ours. No id is
        given twice, so these are older: a newer one would have been read instead.
        """
        for former in sorted(self._unknown, key=str):
            log.info("taking over the items that are marked %s", former)
        self._former |= self._unknown
        self._unknown = set()

    def _write_dead_letters(self, batch: Batch) -> None:
        for letter in batch.letters:
            log.warning(
                "dead letter: partition=%d offset=%d %s",
                letter.record.source.partition,
                letter.record.offset,
                letter.reason,
            )
        tried = _by_code(batch.letters)
        batch.letters = self._put_dead_letters(batch.letters)
        for code, kept in (tried - _by_code(batch.letters)).items():
            metrics.dead_lettered.labels(code).inc(kept)
        if batch.letters:
            log.warning("waiting for the dead-letter topic to acknowledge")


def _measure(updates: Iterable[MergedUpdate], outcome: Outcome) -> None:
    metrics.applied.inc(outcome.applied)
    metrics.already.inc(outcome.already)
    metrics.retried.inc(len(outcome.remaining))
    remaining = {id(update) for update in outcome.remaining}
    now = time.time()
    for update in updates:
        if id(update) not in remaining:
            metrics.age.observe(max(0.0, now - update.timestamp_ms / 1000))


def _by_code(letters: Iterable[DeadLetter]) -> Counter[str]:
    return Counter(letter.reason.code for letter in letters)
