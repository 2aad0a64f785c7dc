"""The root of the addresses, and who answers when something goes wrong."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("profiles.urls")),
]

handler400 = "profiles.api.problems.bad_request"
handler403 = "profiles.api.problems.permission_denied"
handler404 = "profiles.api.problems.not_found"
handler500 = "profiles.api.problems.server_error"
