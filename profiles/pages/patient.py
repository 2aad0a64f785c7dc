"""One patient: the fields, the item as the table holds it, and the timeline.

In: a PatientId. Out: HTML. Reads the table and the log; never writes either.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from confluent_kafka import KafkaException
from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from profiles.access import audit_trail
from profiles.access.callers import page
from profiles.core.items import Item
from profiles.core.records import partition_of
from profiles.dynamodb import reader
from profiles.dynamodb.client import StoreUnavailable
from profiles.kafka import clients, topics
from profiles.kafka.reader import LogMoved, LogReader
from profiles.kafka.topics import KafkaUnavailable, WrongTopic
from profiles.pages import timeline
from profiles.pages.layout import (
    COLUMNS,
    as_json,
    bad_request,
    framed,
    iso,
    label,
    readable,
    table_unavailable,
    unavailable,
)
from profiles.pages.timeline import Timeline
from profiles.runtime.gates import Full, Gate

READER_PATIENCE_S = 3.0

_readers = Gate(2)
"""A timeline costs a connection and up to two seconds."""


@page
@require_safe
def profile_detail(request: HttpRequest, patient_id: str) -> HttpResponse:
    """One patient: the fields, the item as the table holds it, and the timeline."""
    try:
        before = _offset(request.GET.get("before", ""))
        item, story, problem = _look_up(patient_id, before)
    except BadRequest as error:
        return bad_request(request, error)
    except StoreUnavailable as error:
        return table_unavailable(request, error)
    except topics.KafkaUnavailable as error:
        return unavailable(
            request,
            "Kafka is unavailable",
            error,
            "There is no profile of this patient. Pending updates are shown when Kafka "
            "answers again.",
        )
    if item is None and not (story and story.entries) and before is None:
        return framed(
            request,
            "profiles/missing.html",
            status=404,
            title="Patient not found",
            patient_id=patient_id,
            story=story,
        )
    audit_trail.note(request, "view", [patient_id])
    profile = {} if item is None else readable(item)
    return framed(
        request,
        "profiles/detail.html",
        title=patient_id,
        exists=item is not None,
        fields=[(label(name), profile.get(name)) for name in COLUMNS],
        item=as_json(item),
        before=before,
        story=story,
        entries=[_shown(entry) for entry in story.entries] if story else [],
        problem=problem,
    )


def _look_up(
    patient_id: str, before: int | None
) -> tuple[Item | None, Timeline | None, str]:
    """The item and the timeline; the item alone, and why, where Kafka is away.

    Raises KafkaUnavailable where there is neither.
    """
    try:
        item, story = _read_timeline(patient_id, before)
        return item, story, ""
    except (KafkaUnavailable, WrongTopic, LogMoved, Full) as error:
        problem = str(error) or "Too many timelines are being read"
    except KafkaException as error:
        problem = f"Kafka can't be read ({error.args[0].name()})"
    item = reader.profiles().get(patient_id)
    if item is None:
        raise KafkaUnavailable(problem)
    return item, None, problem


def _read_timeline(patient_id: str, before: int | None) -> tuple[Item | None, Timeline]:
    """Read in this order, so that no write in between looks like a loss."""
    with _readers.passage() as moved, closing(clients.group_reader()) as consumer:
        log = LogReader(consumer, topics.watch().current(), READER_PATIENCE_S)
        committed = log.committed(reader.profiles().identity())
        item = reader.profiles().get(patient_id)
        partition = partition_of(patient_id, log.topic.partitions)
        settled = committed.get(partition, 0)
        story = timeline.read(log, patient_id, item, settled, before)
        moved()
        return item, story


def _shown(entry: timeline.Entry) -> dict[str, Any]:
    changes = [(label(name), value) for name, value in entry.changes.items()]
    return {"entry": entry, "at": iso(entry.timestamp_ms), "changes": changes}


def _offset(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise BadRequest("Invalid offset.")
    return int(text)
