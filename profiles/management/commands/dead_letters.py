"""`manage.py dead_letters`: list them, show one, redrive those that are valid now."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
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
from profiles.operate.redrive import Redriven, redrive

BATCH = 100
"""A crash may repeat so many: a batch is published, and then noted."""

Batch = Sequence[tuple[Letter, ProducerRecord]]

NEWER = (
    "A redriven update is a new update: it is newer than all of its patient so far, "
    "also than those that were posted after the dead letter. A second redrive leaves "
    f"it out; only a crash between publication and note may repeat the last {BATCH}."
)
MISPLACED = (
    "{number} more are left out: each was outside its patient's partition, and would "
    "overwrite what its patient got since. `redrive RECEIPT` sends one all the same."
)
UNNOTED = (
    "Kafka did not acknowledge everything: {number} of this batch are not noted as "
    "redriven, and the next redrive sends them once more. An update that it did not "
    "acknowledge is on the topic zero times or once."
)


class Command(BaseCommand):
    """Wires the dead-letter topic to its three uses."""

    help = "List, show and redrive the dead letters."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("list", help="one line for each")
        show = actions.add_parser("show", help="one, without its values")
        show.add_argument("receipt", help="as the list names it")
        show.add_argument("--values", action="store_true", help="with its values")
        redriving = actions.add_parser(
            "redrive", help="publish those that are valid now as new updates"
        )
        redriving.add_argument("receipt", nargs="?", help="only this one")
        redriving.add_argument("--yes", action="store_true", help="do it")

    @errors.as_sentences()
    def handle(self, *args: Any, **options: Any) -> None:
        """Read the topic, then run the action."""
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

    def _show(self, receipt: str, values: bool, **options: Any) -> None:
        """One letter; its bytes only with `--values`."""
        letter = self._find(receipt)
        record = self._record(letter)
        for line in (*self._summary(letter), *_sizes(record)):
            self.stdout.write(line)
        if values:
            self.stdout.write(f"key: {_text(record.key)}")
            for name, value in record.headers:
                self.stdout.write(f"header {name}: {_text(value)}")
            self.stdout.write(f"value: {_text(record.value)}")

    def _redrive(self, receipt: str | None, yes: bool, **options: Any) -> None:
        """Validate again, and publish what is valid, batch by batch."""
        chosen = [self._find_open(receipt)] if receipt else self._letters.open
        likely = chosen if receipt else [*filter(_was_in_place, chosen)]
        left_out, valid = len(chosen) - len(likely), 0
        send = self._sender() if yes else None
        for batch in _batches(self._updates(likely)):
            sent = batch if receipt else [each for each in batch if _is_in_place(*each)]
            left_out += len(batch) - len(sent)
            valid += len(sent)
            if send is not None:
                send(sent)
        self.stdout.write(f"{valid} of {len(chosen)} dead letters are valid now.")
        if left_out:
            self.stdout.write(MISPLACED.format(number=left_out))
        if valid:
            self.stdout.write(NEWER)
        if valid and not yes:
            self.stdout.write("Nothing was sent: add --yes to redrive.")

    def _updates(
        self, letters: Iterable[Letter]
    ) -> Iterator[tuple[Letter, ProducerRecord]]:
        for letter, record in self._letters.records(letters):
            with contextlib.suppress(InvalidRecord):
                yield letter, serializers.validate(record)

    def _sender(self) -> Callable[[Batch], None]:
        watch = topics.watch()
        publisher = Publisher(
            clients.producer, watch.current, watch.is_still, capacity=1
        )
        notes = DeadLetterWriter(clients.dead_letter_producer, settings.KAFKA_DLQ_TOPIC)

        def send(batch: Batch) -> None:
            self._report(redrive(batch, publisher.publish_all, notes) if batch else [])

        return send

    def _report(self, redriven: Sequence[Redriven]) -> None:
        for each in redriven:
            if isinstance(each.verdict, NotAcknowledged):
                self.stdout.write(f"{each.letter} not redriven: {each.verdict}")
            else:
                self.stdout.write(f"{each.letter} redriven as {each.verdict}")
        if unnoted := sum(not each.noted for each in redriven):
            raise CommandError(UNNOTED.format(number=unnoted))

    def _find(self, receipt: str) -> Letter:
        for letter in self._letters.letters.values():
            if str(letter.receipt) == receipt:
                return letter
        raise CommandError(f"No dead letter {receipt}: `dead_letters list` names them.")

    def _find_open(self, receipt: str) -> Letter:
        letter = self._find(receipt)
        if redriven := self._letters.redriven.get(letter.receipt):
            raise CommandError(f"{receipt} was redriven already, as {redriven}.")
        return letter

    def _record(self, letter: Letter) -> Record:
        for _, record in self._letters.records([letter]):
            return record
        raise CommandError(f"{letter.receipt} is no longer on the dead-letter topic.")

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


def _batches(updates: Iterator[tuple[Letter, ProducerRecord]]) -> Iterator[Batch]:
    while batch := [*islice(updates, BATCH)]:
        yield batch


def _was_in_place(letter: Letter) -> bool:
    """Whether it is a dead letter for another reason than its partition."""
    return letter.code != WRONG_PARTITION


def _is_in_place(letter: Letter, update: ProducerRecord) -> bool:
    """Whether it was in its patient's partition."""
    home = partition_of(update.patient_id, settings.KAFKA_PARTITIONS)
    return letter.receipt.source.partition == home


def _sizes(record: Record) -> Iterator[str]:
    for name, content in (("key", record.key), ("value", record.value)):
        yield f"{name}: " + ("none" if content is None else f"{len(content)} bytes")
    yield f"headers: {len(record.headers)}"


def _text(content: str | bytes | None) -> str:
    """The bytes as text; no control character reaches the terminal."""
    if isinstance(content, bytes):
        content = content.decode(errors="backslashreplace")
    return "none" if content is None else ascii(content)
