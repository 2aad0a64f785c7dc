"""The pipeline page: topic, consumer group, table and dead letters, with live figures.

In: GET requests. Out: HTML. Kafka and DynamoDB are read in the background; if one of
them does not answer, the page says so and shows the rest.
"""

from __future__ import annotations

import time

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from profiles.access.callers import page
from profiles.dynamodb import health
from profiles.kafka import flow
from profiles.kafka.flow import Flow, KeptLetters
from profiles.pages import charts
from profiles.pages.layout import framed, iso

FIRST_READING_S = 3.0
"""How long a page waits for the first readings."""
LETTERS_SHOWN = 20


@page
@require_safe
def pipeline(request: HttpRequest) -> HttpResponse:
    """The flow, its partitions, its last minutes, its dead letters, its health."""
    by = time.monotonic() + FIRST_READING_S
    for reading in (health.table(), flow.kept_letters(), flow.group_flow(_table_id)):
        reading.start()
    table, letters = health.table().latest(by), flow.kept_letters().latest(by)
    group = flow.group_flow(_table_id).latest(by)
    return framed(
        request,
        "profiles/pipeline.html",
        title="Pipeline",
        flow=group,
        chart=_chart(group.value),
        minutes=flow.SAMPLED_S / 60,
        letters=letters,
        letters_shown=_letters(letters.value),
        table=table,
        topic_name=settings.KAFKA_TOPIC,
        letters_name=settings.KAFKA_DLQ_TOPIC,
        table_name=settings.DYNAMODB_TABLE,
        group_id=settings.KAFKA_GROUP_ID,
    )


def _table_id() -> str | None:
    known = health.table().last_success.value
    return None if known is None else known.identity


def _chart(group: Flow | None) -> charts.Chart:
    samples = group.samples if group else ()
    accepted = [(sample.at_s, sample.accepted) for sample in samples]
    settled = [(sample.at_s, sample.settled) for sample in samples]
    return charts.chart([accepted, settled], flow.SAMPLED_S)


def _letters(kept: KeptLetters | None) -> list[dict[str, object]]:
    """The newest letters as the template shows them, without their bytes."""
    if kept is None:
        return []
    return [
        {
            "letter": letter,
            "at": iso(letter.kept_ms),
            "redriven": kept.redriven.get(letter.receipt, ""),
        }
        for letter in kept.letters[:LETTERS_SHOWN]
    ]
