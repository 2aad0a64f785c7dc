"""One patient: the fields, the item as the table holds it, and the timeline.

In: a PatientId. Out: HTML. Reads the table and the log; never writes either.
"""

from __future__ import annotations

from typing import Any

from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from profiles.access import audit_trail
from profiles.access.callers import page
from profiles.core.items import Item
from profiles.core.records import partition_of
from profiles.dynamodb import reader
from profiles.dynamodb.client import StoreUnavailable
from profiles.kafka import reader_pool, topics
from profiles.kafka.reader import LogMoved
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


@page
@require_safe
def profile_detail(request: HttpRequest, patient_id: str) -> HttpResponse:
    """200 with the patient's page, 400, 404, or 503 where that can't be known now."""
    try:
        before = _offset(request.GET.get("before", ""))
        item, story, problem = _read(patient_id, before)
    except BadRequest as error:
        return bad_request(request, error)
    except StoreUnavailable as error:
        return table_unavailable(request, error)
    except KafkaUnavailable as error:
        return unavailable(request, "Kafka is unavailable", error, _PENDING_UNKNOWN)
    has_entries = story is not None and bool(story.entries)
    if item is None and not has_entries and before is None:
        return _missing(request, patient_id, story)
    audit_trail.note(request, "view", [patient_id])
    return framed(
        request,
        "profiles/detail.html",
        title=patient_id,
        **_of_item(item),
        before=before,
        story=story,
        entries=[_shown(entry) for entry in story.entries] if story else [],
        problem=problem,
    )


_PENDING_UNKNOWN = (
    "There is no profile of this patient. Pending updates are shown when Kafka answers "
    "again."
)


def _missing(
    request: HttpRequest, patient_id: str, story: Timeline | None
) -> HttpResponse:
    return framed(
        request,
        "profiles/missing.html",
        status=404,
        title="Patient not found",
        patient_id=patient_id,
        story=story,
    )


def _read(
    patient_id: str, before: int | None
) -> tuple[Item | None, Timeline | None, str]:
    """The item and the timeline; or the item alone, and why, where Kafka is away.

    Raises StoreUnavailable, and KafkaUnavailable where there is neither.
    """
    try:
        return *_read_timeline(patient_id, before), ""
    except (KafkaUnavailable, WrongTopic, LogMoved) as error:
        problem = str(error)
    item = reader.profiles().get(patient_id)
    if item is None:
        raise KafkaUnavailable(problem)
    return item, None, problem


def _read_timeline(patient_id: str, before: int | None) -> tuple[Item | None, Timeline]:
    """Read in this order, so that no write in between looks like a loss."""
    with reader_pool.readers().reader(topics.watch().current()) as log:
        committed = log.committed(reader.profiles().identity())
        item = reader.profiles().get(patient_id)
        partition = partition_of(patient_id, log.topic.partitions)
        settled = committed.get(partition, 0)
        return item, timeline.read(log, patient_id, item, settled, before)


def _of_item(item: Item | None) -> dict[str, Any]:
    profile = {} if item is None else readable(item)
    return {
        "exists": item is not None,
        "fields": [(label(name), profile.get(name)) for name in COLUMNS],
        "item": as_json(item),
    }


def _shown(entry: timeline.Entry) -> dict[str, Any]:
    changes = [(label(name), value) for name, value in entry.changes.items()]
    return {"entry": entry, "at": iso(entry.timestamp_ms), "changes": changes}


def _offset(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise BadRequest("Invalid offset.")
    return int(text)
