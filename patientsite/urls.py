"""The root of the addresses, and who answers when something goes wrong."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("profiles.urls")),
]

handler400 = "profiles.problems.bad_request"
handler403 = "profiles.problems.permission_denied"
handler404 = "profiles.problems.not_found"
handler500 = "profiles.problems.server_error"
