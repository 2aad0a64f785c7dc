"""Writing: the second of three rooms. A batch goes into the table.

In: a batch. Out: its updates in the table and its dead letters on their topic, in as many
attempts as that takes. What writes is passed in. Knows no Kafka client and no DynamoDB.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

from profiles.consumer.batches import Batch
from profiles.consumer.changes import ChangeDetector
from profiles.consumer.waiting import Stop
from profiles.core.records import DeadLetter
from profiles.core.updates import Incarnation, MergedUpdate
from profiles.kafka.topics import KafkaUnavailable
from profiles.runtime import metrics

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
    """Writes a batch, attempt after attempt.

    `apply` and `put_dead_letters` make one attempt each, and return what is to be tried
    again. `apply` is given our incarnation of topic and table, and the former ones whose
    items it may take over.
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
        self._is_proven = False
        self._former: set[Incarnation] = set()
        self._unknown: set[Incarnation] = set()

    def begin(self) -> None:
        """The next attempt is the first one of a batch."""
        self._is_proven = False

    def attempt(self, batch: Batch) -> bool:
        """Try what is left of the batch once; whether all is written.

        Raises StartOver, and what `apply` raises.
        """
        if not (self._prove() and self._changes.is_same_table()):
            return False
        self._admit_former()
        if batch.updates:
            self._write_updates(batch)
        if batch.letters and not self._stop.is_overdue:
            self._write_dead_letters(batch)
        return batch.size == 0

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

    def _write_updates(self, batch: Batch) -> None:
        updates = [*batch.updates.values()]
        outcome = self._apply(updates, self._changes.incarnation, self._former)
        batch.keep(outcome.remaining)
        batch.applied += outcome.applied
        batch.already += outcome.already
        _measure(updates, outcome)
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
