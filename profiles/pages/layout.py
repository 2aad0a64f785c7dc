"""The layout: what every page has around it, in Django admin's look.

In: a page's template and context. Out: HTML. Knows the fields, and no profile.
"""

from __future__ import annotations

import json
import re
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from profiles.core import items, serializers
from profiles.core.items import Item
from profiles.dynamodb.client import StoreUnavailable

UNREADABLE = "unreadable"
COLUMNS = [items.KEY, *serializers.FIELDS, items.UPDATED_AT]


def framed(
    request: HttpRequest, template: str, *, status: int = 200, **context: Any
) -> HttpResponse:
    """The page, with the site's header, the badge and, in development, the banner."""
    site = admin.site.each_context(request)
    frame = {
        "is_nav_sidebar_enabled": False,
        "development": settings.DEVELOPMENT,
        "environment": settings.ENVIRONMENT,
    }
    return render(request, template, {**site, **frame, **context}, status=status)


def unavailable(
    request: HttpRequest, title: str, problem: Exception, consolation: str
) -> HttpResponse:
    """503: what does not answer, and what that means for the profiles."""
    return framed(
        request,
        "profiles/unavailable.html",
        status=503,
        title=title,
        problem=str(problem),
        consolation=consolation,
    )


def table_unavailable(request: HttpRequest, error: StoreUnavailable) -> HttpResponse:
    return unavailable(
        request,
        "DynamoDB is unavailable",
        error,
        "Stored profiles are not affected. They are shown when DynamoDB answers again.",
    )


def bad_request(request: HttpRequest, error: BadRequest) -> HttpResponse:
    """400: what is wrong with the address."""
    return framed(
        request, "400.html", status=400, title="Bad request", problem=str(error)
    )


def label(name: str) -> str:
    """A field's name as people read it: DateOfBirth is Date of birth."""
    words = " ".join(re.findall(r"[A-Z][a-z]*", name)).capitalize()
    return re.sub(r"\bid\b", "ID", words)


def readable(item: Item) -> dict[str, str]:
    """The profile as text: UNREADABLE stands for a value that is no string."""
    profile = items.profile(item)
    return {name: profile.get(name, UNREADABLE) for name in COLUMNS if name in item}


def as_json(item: Item | None) -> str:
    """The item as JSON; for bytes, which JSON can't hold, it gives their number."""
    return json.dumps(
        item,
        indent=2,
        sort_keys=True,
        ensure_ascii=False,
        default=lambda value: f"{UNREADABLE}: {len(value)} bytes",
    )


def iso(timestamp_ms: int) -> str:
    """A record's timestamp as ISO 8601; empty if it is no date: a producer may set it."""
    try:
        return items.iso_timestamp(timestamp_ms) if timestamp_ms >= 0 else ""
    except OverflowError:
        return ""
