"""The list of profiles: a page of the table, or what a search finds.

In: GET requests. Out: HTML. Reads the table; never writes it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlencode

from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from profiles.access import audit_trail
from profiles.access.callers import page
from profiles.core import items
from profiles.core.items import Item
from profiles.dynamodb import reader
from profiles.dynamodb.client import StoreUnavailable
from profiles.dynamodb.reader import Page
from profiles.pages.cursor import BadCursor, Cursor
from profiles.pages.layout import (
    COLUMNS,
    bad_request,
    framed,
    label,
    readable,
    table_unavailable,
)

PAGE_SIZE = 50
NAMES = ("FirstName", "LastName")


@dataclass(frozen=True, slots=True)
class Query:
    """The query of the list's address."""

    patient_id: str
    text: str = field(repr=False)
    sort: str
    cursor: Cursor

    @classmethod
    def of(cls, request: HttpRequest) -> Query:
        """Read an address; raises BadRequest."""
        given = request.GET
        sort = given.get("sort", "")
        if sort.removeprefix("-") not in ("", *COLUMNS):
            raise BadRequest("Invalid sort column.")
        try:
            cursor = Cursor.decode(given.get("cursor", ""))
        except BadCursor as error:
            raise BadRequest(str(error)) from None
        return cls(given.get("q", ""), given.get("name", "").strip(), sort, cursor)

    def address(self, **changed: str) -> str:
        """The address of this query with something changed."""
        query = {
            "q": self.patient_id,
            "name": self.text,
            "sort": self.sort,
            "cursor": self.cursor.encode(),
        }
        given = {name: text for name, text in {**query, **changed}.items() if text}
        return f"?{urlencode(given)}"


@page
@require_safe
def profile_list(request: HttpRequest) -> HttpResponse:
    """A page of profiles in the table's order, or those that a search finds."""
    try:
        query = Query.of(request)
        found = _find(query)
    except BadRequest as error:
        return bad_request(request, error)
    except StoreUnavailable as error:
        return table_unavailable(request, error)
    profiles = _sorted([readable(item) for item in found.items], query.sort)
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
    profiles, after = reader.profiles(), query.cursor.after
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
    """By one column of this page; profiles without a value there come last."""
    name = sort.removeprefix("-")
    if not name:
        return profiles
    given = [profile for profile in profiles if name in profile]
    given.sort(key=lambda profile: profile[name].casefold(), reverse=sort[0] == "-")
    return given + [profile for profile in profiles if name not in profile]


def _column(name: str, query: Query) -> dict[str, str]:
    """A heading: its order for screen readers, and the address that changes it."""
    now = {name: "ascending", f"-{name}": "descending"}.get(query.sort, "none")
    then = {"ascending": f"-{name}", "descending": ""}.get(now, name)
    return {"label": label(name), "sorted": now, "address": query.address(sort=then)}


def _previous(query: Query) -> str:
    previous = query.cursor.previous
    return "" if previous is None else query.address(cursor=previous.encode())


def _following(query: Query, found: Page) -> str:
    if found.next_after is None:
        return ""
    return query.address(cursor=query.cursor.next(found.next_after).encode())
