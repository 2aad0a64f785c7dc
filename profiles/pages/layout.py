"""The frame: what every page has around it, in Django admin's look.

In: a page's template and context. Out: HTML. Knows no profile.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


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
