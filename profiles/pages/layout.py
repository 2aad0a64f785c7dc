"""The layout: what every page has around it, in Django admin's look.

In: a page's template and context. Out: HTML. Knows the fields, and no profile.
"""

from __future__ import annotations

import re
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from profiles.core import items, serializers
from profiles.dynamodb.client import StoreUnavailable

COLUMNS = [items.KEY, *serializers.FIELDS, items.UPDATED_AT]


def framed(
    request: HttpRequest, template: str, *, status: int = 200, **context: Any
) -> HttpResponse:
    """The page, with the site's header, the badge and, in development, the banner."""
    site = admin.site.each_context(request)
    frame = {
        "site_header": "Patient Profile",
        "site_title": "Patient Profile",
        "is_nav_sidebar_enabled": False,
        "development": settings.DEVELOPMENT,
        "environment": settings.ENVIRONMENT,
    }
    return render(request, template, {**site, **frame, **context}, status=status)


def unavailable(
    request: HttpRequest, title: str, problem: Exception, consolation: str
) -> HttpResponse:
    """503: what does not answer, and what that means to the reader."""
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
        "The table can't be read",
        error,
        "The profiles are safe; they can't be shown until DynamoDB answers.",
    )


def label(name: str) -> str:
    """A field's name as people read it: DateOfBirth is Date of birth."""
    words = " ".join(re.findall(r"[A-Z][a-z]*", name)).capitalize()
    return re.sub(r"\bid\b", "ID", words)
