"""Redrive: the dead letters looked through again, and sent on where they are valid now.

In: the log of the dead-letter topic. Out: what each letter is, its record, and, for one
that is an update after all, a new update. Holds no record's bytes for longer than it
works on them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from profiles import dead_letters
from profiles.dead_letters import DeadLetterTopic
from profiles.logs import Log
from profiles.records import ProducerRecord, Record
from profiles.updates import Receipt, Source


class NotMarked(Exception):
    """A letter is redriven, but nothing remembers it: the operator must."""


@dataclass(frozen=True, slots=True)
class Letter:
    """What is known of a dead letter; its bytes stay on the dead-letter topic.

    `place` is where the record stands on the topic it came from, `kept` where its
    first copy stands on the dead-letter topic, `kept_ms` since when, and `copies` how
    often it was written there.
    """

    place: Receipt
    topic: str
    timestamp_ms: int
    code: str
    detail: str
    kept: Receipt
    kept_ms: int
    copies: int = 1


class DeadLetters:
    """The dead-letter topic as it is read: one letter per place, however often written.

    Reading again goes on where the last reading ended. `foreign` counts the records
    that nobody of ours wrote there. With `last`, no more than so many of the newest
    records of each partition are read; `retained` counts all that are there.
    """

    def __init__(self, log: Log, last: int = sys.maxsize) -> None:
        self.letters: dict[Receipt, Letter] = {}
        self.redriven: dict[Receipt, str] = {}
        self.foreign = 0
        self.retained = 0
        self._log = log
        self._last = last
        self._next: dict[int, int] = {}

    def read(self) -> None:
        """Read to the present end; raises what reading the log raises."""
        spans = self._log.spans()
        self.retained = sum(map(len, spans.values()))
        unread = {
            partition: range(self._first(partition, span), span.stop)
            for partition, span in spans.items()
        }
        for record in self._log.records(unread):
            self._take(record)
            self._next[record.source.partition] = record.offset + 1

    def _first(self, partition: int, span: range) -> int:
        read = self._next.get(partition, 0)
        return max(span.start, read, span.stop - self._last)

    @property
    def open(self) -> list[Letter]:
        """Those that were not redriven: what an operator has still to look at."""
        letters = self.letters.values()
        return [letter for letter in letters if letter.place not in self.redriven]

    def record(self, letter: Letter) -> Record | None:
        """The record as it stood on its topic; None where the letter is gone."""
        kept = self._log.record(letter.kept)
        if kept is None:
            return None
        return Record(
            letter.topic,
            letter.place.source,
            letter.place.offset,
            letter.timestamp_ms,
            kept.key,
            kept.value,
            dead_letters.own_headers(kept),
        )

    def _take(self, record: Record) -> None:
        facts = dead_letters.facts(record)
        try:
            source = Source(facts["topic-id"], int(facts["partition"]))
            place = Receipt(source, int(facts["offset"]))
            if dead_letters.is_mark(record):
                self.redriven[place] = facts["redriven-as"]
            elif place in self.letters:
                again = self.letters[place]
                self.letters[place] = replace(again, copies=again.copies + 1)
            else:
                self.letters[place] = _letter(record, facts, place)
        except (KeyError, ValueError):
            self.foreign += 1


def redrive(
    letter: Letter,
    update: ProducerRecord,
    publish: Callable[[ProducerRecord], Receipt],
    topic: DeadLetterTopic,
) -> Receipt:
    """Publish a letter that is an update after all, and note that it was.

    Raises what `publish` raises, or NotMarked.
    """
    receipt = publish(update)
    if not topic.mark_redriven(letter.place, receipt):
        raise NotMarked(
            f"{letter.place} is redriven as {receipt}, but Kafka did not acknowledge "
            "the note of it: redriving again would publish it once more"
        )
    return receipt


def _letter(record: Record, facts: dict[str, str], place: Receipt) -> Letter:
    return Letter(
        place=place,
        topic=facts["topic"],
        timestamp_ms=int(facts["timestamp-ms"]),
        code=facts["code"],
        detail=facts["detail"],
        kept=Receipt(record.source, record.offset),
        kept_ms=record.timestamp_ms,
    )
