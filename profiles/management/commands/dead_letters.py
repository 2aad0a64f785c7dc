"""`manage.py dead_letters`: list what is no update, show one, redrive what is by now."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from profiles.core import serializers
from profiles.core.records import (
    WRONG_PARTITION,
    InvalidRecord,
    ProducerRecord,
    Record,
    partition_of,
)
from profiles.kafka import clients, topics
from profiles.kafka.dead_letters import DeadLetterReader, DeadLetterWriter, Letter
from profiles.kafka.producer import NotAcknowledged, Publisher
from profiles.kafka.reader import LogReader
from profiles.management import errors
from profiles.operate.redrive import NotMarked, redrive

NEWER = (
    "A redriven update is a new update: it is newer than all of its patient so far, "
    "also than those that were posted after the dead letter. A second redrive leaves "
    "it out; only a crash between its publication and the note of it may repeat one."
)
MISPLACED = (
    "{number} more are left out: each stood outside its patient's partition, and would "
    "overwrite what its patient got since. `redrive PLACE` sends one all the same."
)


class Command(BaseCommand):
    """Wires the dead-letter topic to its three uses."""

    help = "List, show and redrive the dead letters."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("list", help="one line for each")
        show = actions.add_parser("show", help="one, without its values")
        show.add_argument("place", help="as the list names it")
        show.add_argument("--values", action="store_true", help="with its values")
        redriving = actions.add_parser(
            "redrive", help="publish those that are valid now as new updates"
        )
        redriving.add_argument("place", nargs="?", help="only this one")
        redriving.add_argument("--yes", action="store_true", help="do it")

    @errors.as_sentences(NotMarked)
    def handle(self, *args: Any, **options: Any) -> None:
        """Read the topic, then do what was asked."""
        with clients.admin() as admin:
            topic = topics.describe(admin, settings.KAFKA_DLQ_TOPIC)
        self._letters = DeadLetterReader(LogReader(clients.group_reader(), topic))
        self._letters.read()
        getattr(self, f"_{options['action']}")(**options)

    def _list(self, **options: Any) -> None:
        """Reason, source, age and count; no values."""
        self.stdout.write(
            f"{len(self._letters.letters)} dead letters, {len(self._letters.open)} of "
            "them not redriven"
        )
        for letter in self._letters.letters.values():
            self.stdout.write("  ".join(self._summary(letter)))
        if self._letters.foreign:
            self.stdout.write(
                f"{self._letters.foreign} records without the consumer's headers"
            )

    def _show(self, place: str, values: bool, **options: Any) -> None:
        """One letter; its bytes only where they are asked for."""
        letter = self._find(place)
        record = self._record(letter)
        for line in (*self._summary(letter), *_sizes(record)):
            self.stdout.write(line)
        if values:
            self.stdout.write(f"key: {_text(record.key)}")
            for name, value in record.headers:
                self.stdout.write(f"header {name}: {_text(value)}")
            self.stdout.write(f"value: {_text(record.value)}")

    def _redrive(self, place: str | None, yes: bool, **options: Any) -> None:
        """Validate again, and publish what is an update after all."""
        chosen = [self._find_open(place)] if place else self._letters.open
        # By its code first: to read one takes half a second.
        likely = chosen if place else [*filter(_was_in_place, chosen)]
        updates = [*self._updates(likely)]
        valid = updates if place else [each for each in updates if _is_in_place(*each)]
        self.stdout.write(f"{len(valid)} of {len(chosen)} dead letters are valid now.")
        if left := len(chosen) - len(likely) + len(updates) - len(valid):
            self.stdout.write(MISPLACED.format(number=left))
        if not valid:
            return
        self.stdout.write(NEWER)
        if not yes:
            self.stdout.write("Nothing was sent: add --yes to redrive.")
            return
        try:
            self._send(valid)
        except NotAcknowledged as error:
            raise CommandError(
                f"{error}: the last one is on the topic zero times or once. Redrive again."
            ) from None

    def _send(self, valid: list[tuple[Letter, ProducerRecord]]) -> None:
        watch = topics.watch()
        publisher = Publisher(
            clients.producer, watch.current, watch.is_still, capacity=1
        )
        kept = DeadLetterWriter(clients.dead_letter_producer, settings.KAFKA_DLQ_TOPIC)
        for letter, update in valid:
            receipt = redrive(letter, update, publisher.publish, kept)
            self.stdout.write(f"{letter.receipt} redriven as {receipt}")

    def _updates(
        self, letters: Iterable[Letter]
    ) -> Iterator[tuple[Letter, ProducerRecord]]:
        for letter in letters:
            with contextlib.suppress(InvalidRecord):
                yield letter, serializers.validate(self._record(letter))

    def _find(self, place: str) -> Letter:
        for letter in self._letters.letters.values():
            if str(letter.receipt) == place:
                return letter
        raise CommandError(f"No dead letter {place}: `dead_letters list` names them.")

    def _find_open(self, place: str) -> Letter:
        letter = self._find(place)
        if redriven := self._letters.redriven.get(letter.receipt):
            raise CommandError(f"{place} was redriven already, as {redriven}.")
        return letter

    def _record(self, letter: Letter) -> Record:
        record = self._letters.record(letter)
        if record is None:
            raise CommandError(
                f"{letter.receipt} is no longer on the dead-letter topic."
            )
        return record

    def _summary(self, letter: Letter) -> list[str]:
        age = datetime.now(UTC) - datetime.fromtimestamp(letter.kept_ms / 1000, UTC)
        redriven = self._letters.redriven.get(letter.receipt)
        return [
            str(letter.receipt),
            f"{letter.code}: {letter.detail}",
            f"kept for {timedelta(seconds=int(age.total_seconds()))}",
            f"written {letter.copies} times" if letter.copies > 1 else "written once",
            f"redriven as {redriven}" if redriven else "not redriven",
        ]


def _was_in_place(letter: Letter) -> bool:
    """Whether it is a dead letter for another reason than its partition."""
    return letter.code != WRONG_PARTITION


def _is_in_place(letter: Letter, update: ProducerRecord) -> bool:
    """Whether it stood in its patient's partition."""
    home = partition_of(update.patient_id, settings.KAFKA_PARTITIONS)
    return letter.receipt.source.partition == home


def _sizes(record: Record) -> Iterator[str]:
    for name, content in (("key", record.key), ("value", record.value)):
        yield f"{name}: " + ("none" if content is None else f"{len(content)} bytes")
    yield f"headers: {len(record.headers)}"


def _text(content: str | bytes | None) -> str:
    """Readable, whatever the bytes are; no control character reaches the terminal."""
    if isinstance(content, bytes):
        content = content.decode(errors="backslashreplace")
    return "none" if content is None else ascii(content)
