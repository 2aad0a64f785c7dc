"""The addresses: the API's and the pages'."""

from __future__ import annotations

from django.urls import path, re_path
from django.views.generic import RedirectView

from profiles import pages, views

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="profiles")),
    path("livez", views.live),
    path("readyz", views.ready),
    path("patientprofile", views.PatientProfileView.as_view()),
    path("patientprofile/<path:patient_id>", views.PatientProfileDetailView.as_view()),
    path("profiles/", pages.profile_list, name="profiles"),
    re_path(r"^profiles/(?P<patient_id>.+)/$", pages.profile_detail, name="profile"),
]
