"""The pages: the profiles as people browse them, and the story of each.

In: GET requests. Out: HTML. Reads the table and the log; never writes either.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from confluent_kafka import KafkaException
from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from profiles.access import audit_trail
from profiles.access.callers import page
from profiles.core import items, serializers
from profiles.core.items import Item
from profiles.core.records import partition_of
from profiles.dynamodb import reader
from profiles.dynamodb.client import StoreUnavailable
from profiles.dynamodb.reader import Page
from profiles.kafka import clients, topics
from profiles.kafka.reader import LogMoved, LogReader
from profiles.kafka.topics import KafkaUnavailable, WrongTopic
from profiles.pages import timeline
from profiles.pages.cursor import BadCursor, Position
from profiles.pages.layout import framed, unavailable
from profiles.pages.timeline import Timeline
from profiles.runtime.gates import Full, Gate

PAGE_SIZE = 50
COLUMNS = [items.KEY, *serializers.FIELDS, items.UPDATED_AT]
NAMES = ("FirstName", "LastName")
READER_PATIENCE_S = 3.0

_readers = Gate(2)
"""A timeline costs a connection and up to two seconds."""


# The list


@dataclass(frozen=True, slots=True)
class Query:
    """What the list's address asks for."""

    patient_id: str
    text: str
    sort: str
    position: Position

    @classmethod
    def of(cls, request: HttpRequest) -> Query:
        """Read an address; raises BadRequest."""
        given = request.GET
        sort = given.get("sort", "")
        if sort.removeprefix("-") not in ("", *COLUMNS):
            raise BadRequest("There is no such column to sort by.")
        try:
            position = Position.of(given.get("cursor", ""))
        except BadCursor as error:
            raise BadRequest(str(error)) from None
        return cls(given.get("q", ""), given.get("name", "").strip(), sort, position)

    def address(self, **changed: str) -> str:
        """The address of this query with something changed."""
        query = {
            "q": self.patient_id,
            "name": self.text,
            "sort": self.sort,
            "cursor": self.position.cursor(),
        }
        given = {name: text for name, text in {**query, **changed}.items() if text}
        return f"?{urlencode(given)}"


@page
@require_safe
def profile_list(request: HttpRequest) -> HttpResponse:
    """A page of profiles in the table's order, or those that a search finds."""
    query = Query.of(request)
    try:
        found = _find(query)
    except StoreUnavailable as error:
        return _store_unavailable(request, error)
    profiles = _sorted([items.profile(item) for item in found.items], query.sort)
    audit_trail.note(request, "list", [profile[items.KEY] for profile in profiles])
    return framed(
        request,
        "profiles/list.html",
        title="Patient profiles",
        query=query,
        columns=[_column(name, query) for name in COLUMNS],
        rows=[[profile.get(name, "") for name in COLUMNS] for profile in profiles],
        scanned=found.scanned,
        previous=_previous(query),
        following=_following(query, found),
        first=query.address(cursor=""),
        origin=request.build_absolute_uri("/").rstrip("/"),
    )


def _find(query: Query) -> Page:
    profiles, after = reader.profiles(), query.position.after
    if query.patient_id:
        item = profiles.get(query.patient_id)
        return Page([] if item is None else [item], None, 1)
    if query.text:
        return profiles.search(_names_match(query.text), PAGE_SIZE, after)
    return profiles.page(PAGE_SIZE, after)


def _names_match(text: str) -> Callable[[Item], bool]:
    """Whether every word is part of a name, whatever its case or accents."""
    words = _folded(text).split()

    def matches(item: Item) -> bool:
        profile = items.profile(item)
        names = _folded(" ".join(profile.get(name, "") for name in NAMES))
        return all(word in names for word in words)

    return matches


def _folded(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def _sorted(profiles: list[dict[str, str]], sort: str) -> list[dict[str, str]]:
    """By one column of this page; what has no value there comes last."""
    name = sort.removeprefix("-")
    if not name:
        return profiles
    given = [profile for profile in profiles if name in profile]
    given.sort(key=lambda profile: profile[name].casefold(), reverse=sort[0] == "-")
    return given + [profile for profile in profiles if name not in profile]


def _column(name: str, query: Query) -> dict[str, str]:
    """A heading: its state for screen readers, and where a click leads."""
    now = {name: "ascending", f"-{name}": "descending"}.get(query.sort, "none")
    then = {"ascending": f"-{name}", "descending": ""}.get(now, name)
    return {"label": label(name), "sorted": now, "address": query.address(sort=then)}


def _previous(query: Query) -> str:
    previous = query.position.previous
    return "" if previous is None else query.address(cursor=previous.cursor())


def _following(query: Query, found: Page) -> str:
    if found.next_after is None:
        return ""
    return query.address(cursor=query.position.next(found.next_after).cursor())


# The detail


@page
@require_safe
def profile_detail(request: HttpRequest, patient_id: str) -> HttpResponse:
    """One patient: the fields, the item as the table holds it, and the timeline."""
    before = _offset(request.GET.get("before", ""))
    try:
        item, story, problem = _look_up(patient_id, before)
    except StoreUnavailable as error:
        return _store_unavailable(request, error)
    except topics.KafkaUnavailable as error:
        return unavailable(
            request,
            "No profile, and Kafka can't be read",
            error,
            "The table has no such profile; whether an update waits on the topic can't "
            "be told until Kafka answers.",
        )
    if item is None and not (story and story.entries) and before is None:
        return framed(
            request,
            "profiles/missing.html",
            status=404,
            title="No such patient",
            patient_id=patient_id,
            story=story,
        )
    audit_trail.note(request, "view", [patient_id])
    profile = {} if item is None else items.profile(item)
    return framed(
        request,
        "profiles/detail.html",
        title=patient_id,
        exists=item is not None,
        fields=[(label(name), profile.get(name)) for name in COLUMNS],
        item=json.dumps(item, indent=2, sort_keys=True, ensure_ascii=False),
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
    at = items.iso_timestamp(entry.timestamp_ms) if entry.timestamp_ms >= 0 else ""
    return {"entry": entry, "at": at, "changes": changes}


def _offset(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise BadRequest("`before` is not an offset.")
    return int(text)


def label(name: str) -> str:
    """A field's name as people read it: DateOfBirth is Date of birth."""
    words = " ".join(re.findall(r"[A-Z][a-z]*", name)).capitalize()
    return re.sub(r"\bid\b", "ID", words)


def _store_unavailable(request: HttpRequest, error: StoreUnavailable) -> HttpResponse:
    return unavailable(
        request,
        "The table can't be read",
        error,
        "The profiles are safe; they can't be shown until DynamoDB answers.",
    )
