"""The dashboard: the pipeline as a picture with live figures.

In: GET requests. Out: HTML. Every figure is read from Kafka and DynamoDB themselves, in
the background; where one of them is away the page says so, and shows the rest.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from profiles.access.callers import page
from profiles.dynamodb import health
from profiles.pages import charts, figures
from profiles.pages.layout import framed

LETTERS_SHOWN = 20


@page
@require_safe
def pipeline(request: HttpRequest) -> HttpResponse:
    """The flow, its partitions, its last minutes, its dead letters, its health."""
    by = time.monotonic() + figures.PATIENCE_S
    for reader in (health.table(), figures.letters(), figures.flow()):
        reader.start()
    table, letters = health.table().latest(by), figures.letters().latest(by)
    flow = figures.flow().latest(by)
    return framed(
        request,
        "profiles/pipeline.html",
        title="Pipeline",
        flow=flow,
        chart=_chart(flow.value),
        minutes=figures.KEPT_S / 60,
        letters=letters,
        letters_shown=_letters(letters.value),
        table=table,
        topic_name=settings.KAFKA_TOPIC,
        letters_name=settings.KAFKA_DLQ_TOPIC,
        table_name=settings.DYNAMODB_TABLE,
        group_id=settings.KAFKA_GROUP_ID,
    )


def _chart(flow: figures.Flow | None) -> charts.Chart:
    samples = flow.samples if flow else ()
    accepted = [(sample.at_s, sample.accepted) for sample in samples]
    settled = [(sample.at_s, sample.settled) for sample in samples]
    return charts.chart([accepted, settled], figures.KEPT_S)


def _letters(kept: figures.KeptLetters | None) -> list[dict[str, object]]:
    """The newest, as people read them; no byte of theirs."""
    if kept is None:
        return []
    return [
        {
            "letter": letter,
            "at": datetime.fromtimestamp(letter.kept_ms / 1000, UTC),
            "redriven": kept.redriven.get(letter.receipt, ""),
        }
        for letter in kept.letters[:LETTERS_SHOWN]
    ]
