"""`manage.py audit_profiles`: is every item what the log says it is?"""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from profiles.core.items import Item
from profiles.core.records import Record
from profiles.core.updates import Incarnation, Receipt
from profiles.dynamodb import client
from profiles.dynamodb.reader import TableReader
from profiles.dynamodb.writer import TableWriter
from profiles.kafka import clients, topics
from profiles.kafka.dead_letters import DeadLetterReader
from profiles.kafka.reader import LogMoved, LogReader
from profiles.management import errors
from profiles.operate.audit import Report, Share, audit
from profiles.operate.histories import Finding, Spans

log = logging.getLogger(__name__)

ATTEMPTS = 8
PRINTED = 10
LOGGED = 100_000
"""The number of records between two log lines on the audit's progress."""
NOT_AUDITED = 2
"""Exit code when the audit failed: 1 means damage."""


class Command(BaseCommand):
    """Audits the running system, and prints what was found."""

    help = "Compare every item with its patient's records; exit code 1 on damage."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--sample",
            type=share,
            default=Share(),
            metavar="N/M",
            help="audit this share of the patients, always the same ones",
        )
        parser.add_argument("--grown", action="store_true", help=topics.GROWN)
        parser.add_argument("--json", action="store_true", help="everything, as JSON")

    @errors.as_sentences(returncode=NOT_AUDITED)
    def handle(self, *args: Any, **options: Any) -> None:
        """Audit the configured table against the configured topic."""
        report = self._audit(options["sample"], options["grown"])
        if options["json"]:
            self.stdout.write(json.dumps(as_json(report), indent=2))
        else:
            self.stdout.writelines(as_text(report))
        if report.damaged:
            raise CommandError(
                f"{report.damaged} patients or records are damaged: docs/operations.md "
                "explains each class and what to do."
            )

    def _audit(self, share: Share, grown: bool) -> Report:
        table = TableWriter(client.connect(ATTEMPTS), settings.DYNAMODB_TABLE)
        with clients.admin() as admin:
            topic = topics.configured(admin, grown)
            letters = topics.describe(admin, settings.KAFKA_DLQ_TOPIC)
            incarnation = Incarnation(topic.id, table.identity())
            system = _System(topic, letters, incarnation.table_id)
            report = audit(system, incarnation, settings.KAFKA_PARTITIONS, share)
            if topics.configured(admin, grown).id != topic.id:
                raise LogMoved(
                    f"topic {topic.name} was recreated during the audit: audit again"
                )
        if table.identity() != incarnation.table_id:
            raise LogMoved("the table was replaced during the audit: audit again")
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
        return logged(self._log.records(spans), sum(map(len, spans.values())))


def logged(records: Iterable[Record], total: int) -> Iterator[Record]:
    """The records, with a log line from time to time: a long audit shows progress."""
    for number, record in enumerate(records, 1):
        if number % LOGGED == 0:
            log.info("read %d of %d records", number, total)
        yield record


def share(text: str) -> Share:
    """Option type: a share of the patients, such as 1/8."""
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
    if not found or int(found[1]) > int(found[2]):
        raise argparse.ArgumentTypeError("give a share such as 1/8")
    return Share(int(found[1]), int(found[2]))


def as_json(report: Report) -> dict[str, Any]:
    """All PatientIds by finding; of patients in order only the number."""
    found = {
        finding.name.lower(): {
            "patients": len(tally.patients),
            "records": tally.records,
            "patient_ids": sorted(tally.patients),
            "receipts": [str(receipt) for receipt in tally.receipts],
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
    """A table with the first PatientIds and receipts of each finding."""
    yield (
        f"{report.items:,} items of table {settings.DYNAMODB_TABLE} against "
        f"{report.records:,} records of topic {settings.KAFKA_TOPIC}\n"
    )
    yield f"{'':14} {'patients':>10} {'records':>10}\n"
    for finding, tally in report.tallies.items():
        line = f"{finding:14} {len(tally.patients):>10,} {tally.records or '':>10}"
        named = [] if finding is Finding.IN_ORDER else sorted(tally.patients)
        named += [f"record {receipt}" for receipt in tally.receipts]
        more = [f"... {len(named) - PRINTED:,} more"] if len(named) > PRINTED else []
        yield f"{line}  {', '.join(named[:PRINTED] + more)}".rstrip() + "\n"
