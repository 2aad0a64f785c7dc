"""The pages: the table as people browse it, in Django admin's look.

In: GET requests. Out: HTML. Reads the table; never writes it.
"""

from __future__ import annotations

import json
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.core import signing
from django.core.exceptions import BadRequest
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from profiles import items, lookups, serializers, trail
from profiles.access import page
from profiles.lookups import Page, StoreUnavailable

PAGE_SIZE = 50
COLUMNS = [*serializers.PatientProfile().fields, items.UPDATED_AT]
_CURSOR_SALT = "profiles.pages.cursor"


@page
@require_safe
def profile_list(request: HttpRequest) -> HttpResponse:
    """A page of profiles in the table's order, or the one that `?q=` names exactly."""
    wanted = request.GET.get("q", "")
    after = _position(request.GET.get("cursor", ""))
    try:
        found = _search(wanted) if wanted else lookups.profiles().page(PAGE_SIZE, after)
    except StoreUnavailable as error:
        return _unavailable(request, error)
    rows = [_row(items.profile(item)) for item in found.items]
    trail.note(request, "list", [row["id"] for row in rows])
    cursor = signing.dumps(found.next_after, salt=_CURSOR_SALT)
    return _page(
        request,
        "profiles/list.html",
        title="Patient profiles",
        columns=COLUMNS,
        rows=rows,
        wanted=wanted,
        continued=after is not None,
        cursor=cursor if found.next_after else "",
        origin=request.build_absolute_uri("/").rstrip("/"),
    )


@page
@require_safe
def profile_detail(request: HttpRequest, patient_id: str) -> HttpResponse:
    """One profile: its fields, and the item as the table holds it."""
    try:
        item = lookups.profiles().get(patient_id)
    except StoreUnavailable as error:
        return _unavailable(request, error)
    if item is None:
        raise Http404
    trail.note(request, "view", [patient_id])
    profile = items.profile(item)
    return _page(
        request,
        "profiles/detail.html",
        title=patient_id,
        fields=[(name, profile.get(name)) for name in COLUMNS],
        item=json.dumps(item, indent=2, sort_keys=True, ensure_ascii=False),
    )


def _search(patient_id: str) -> Page:
    item = lookups.profiles().get(patient_id)
    return Page([] if item is None else [item], None)


def _row(profile: dict[str, str]) -> dict[str, Any]:
    return {
        "id": profile[items.KEY],
        "values": [profile.get(name, "") for name in COLUMNS[1:]],
    }


def _position(cursor: str) -> str | None:
    """The PatientId that a cursor of ours continues after."""
    if not cursor:
        return None
    try:
        return str(signing.loads(cursor, salt=_CURSOR_SALT))
    except signing.BadSignature:
        raise BadRequest("The cursor is not one of ours.") from None


def _page(
    request: HttpRequest, template: str, *, status: int = 200, **context: Any
) -> HttpResponse:
    site = admin.site.each_context(request)
    frame = {
        "site_header": "Patient Profile",
        "site_title": "Patient Profile",
        "is_nav_sidebar_enabled": False,
        "development": settings.DEVELOPMENT,
    }
    return render(request, template, {**site, **frame, **context}, status=status)


def _unavailable(request: HttpRequest, error: StoreUnavailable) -> HttpResponse:
    return _page(
        request,
        "profiles/unavailable.html",
        status=503,
        title="The table can't be read",
        problem=str(error),
    )
