"""`manage.py audit_profiles`: is every item what the log says it is?"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Collection, Iterator
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from profiles.core.items import Item
from profiles.core.records import Record
from profiles.core.updates import Incarnation, Receipt
from profiles.dynamodb import client
from profiles.dynamodb.client import StoreRefused, StoreUnavailable
from profiles.dynamodb.reader import TableReader
from profiles.dynamodb.writer import TableWriter
from profiles.kafka import clients, topics
from profiles.kafka.dead_letters import DeadLetterReader
from profiles.kafka.reader import LogMoved, LogReader
from profiles.management.progress import Progress
from profiles.operate.audit import Report, Sample, audit
from profiles.operate.histories import Finding, Spans

ATTEMPTS = 8
PRINTED = 10
NO_ANSWER = 2
"""Exit code where the audit could not be made: 1 is for damage."""


class Command(BaseCommand):
    """Wires the readings to the audit, and tells what it found."""

    help = "Compare every item with its patient's records; exit code 1 on damage."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--sample",
            type=sample,
            default=Sample(),
            metavar="N/M",
            help="a stable share of the patients, so that memory stays bounded",
        )
        parser.add_argument("--grown", action="store_true", help=topics.GROWN)
        parser.add_argument("--json", action="store_true", help="everything, as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Audit the configured table against the configured topic."""
        try:
            report = self._audit(options["sample"], options["grown"])
        except (topics.KafkaUnavailable, topics.WrongTopic, LogMoved) as error:
            raise CommandError(f"{error}.", returncode=NO_ANSWER) from None
        except (StoreUnavailable, StoreRefused) as error:
            raise CommandError(f"{error}.", returncode=NO_ANSWER) from None
        if options["json"]:
            self.stdout.write(json.dumps(as_json(report), indent=2))
        else:
            self.stdout.writelines(as_text(report))
        if report.damaged:
            raise CommandError(
                f"{report.damaged} are not as the log says: docs/operations.md tells "
                "what each class means and what to do."
            )

    def _audit(self, share: Sample, grown: bool) -> Report:
        table = TableWriter(client.connect(ATTEMPTS), settings.DYNAMODB_TABLE)
        with clients.admin() as admin:
            topic = topics.configured(admin, grown)
            letters = topics.describe(admin, settings.KAFKA_DLQ_TOPIC)
            incarnation = Incarnation(topic.id, table.identity())
            system = _System(topic, letters, incarnation.table_id)
            report = audit(system, incarnation, settings.KAFKA_PARTITIONS, share)
            if topics.configured(admin, grown).id != topic.id:
                raise LogMoved(
                    f"topic {topic.name} was recreated meanwhile: audit again"
                )
        if table.identity() != incarnation.table_id:
            raise LogMoved("the table was replaced meanwhile: audit again")
        return report


class _System:
    """The running system, as the audit reads it."""

    def __init__(
        self, topic: topics.Topic, letters: topics.Topic, table_id: str
    ) -> None:
        self._table_id = table_id
        dynamodb = client.connect(ATTEMPTS)
        self._profiles = TableReader(dynamodb, settings.DYNAMODB_TABLE)
        self._log = LogReader(clients.group_reader(), topic)
        self._letters = DeadLetterReader(LogReader(clients.group_reader(), letters))

    def committed(self) -> dict[int, int]:
        return self._log.committed(self._table_id)

    def items(self) -> Iterator[Item]:
        return self._profiles.all()

    def spans(self) -> dict[int, range]:
        return self._log.spans()

    def dead_letters(self) -> Collection[Receipt]:
        self._letters.read()
        return self._letters.letters

    def records(self, spans: Spans) -> Iterator[Record]:
        total = sum(map(len, spans.values()))
        progress = Progress(sys.stderr, total, "records")
        return progress.along(self._log.records(spans))


def sample(text: str) -> Sample:
    """Option type: 1/8."""
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
    if not found or int(found[1]) > int(found[2]):
        raise argparse.ArgumentTypeError("give a share such as 1/8")
    return Sample(int(found[1]), int(found[2]))


def as_json(report: Report) -> dict[str, Any]:
    """Counts and all PatientIds; of those in order only how many there are."""
    found = {
        finding.name.lower(): {
            "patients": len(tally.patients),
            "records": tally.records,
            "patient_ids": sorted(tally.patients),
            "receipts": [str(place) for place in tally.places],
        }
        for finding, tally in report.tallies.items()
    }
    del found["in_order"]["patient_ids"]
    return {
        "table": settings.DYNAMODB_TABLE,
        "topic": settings.KAFKA_TOPIC,
        "items": report.items,
        "records": report.records,
        "damaged": report.damaged,
        "findings": found,
    }


def as_text(report: Report) -> Iterator[str]:
    """A table with the first few of each class."""
    yield (
        f"{report.items:,} items of table {settings.DYNAMODB_TABLE} against "
        f"{report.records:,} records of topic {settings.KAFKA_TOPIC}\n"
    )
    yield f"{'':14} {'patients':>10} {'records':>10}\n"
    for finding, tally in report.tallies.items():
        line = f"{finding:14} {len(tally.patients):>10,} {tally.records or '':>10}"
        who = [] if finding is Finding.IN_ORDER else sorted(tally.patients)
        who += [f"record {place}" for place in tally.places]
        more = [f"... {len(who) - PRINTED:,} more"] if len(who) > PRINTED else []
        yield f"{line}  {', '.join(who[:PRINTED] + more)}".rstrip() + "\n"
