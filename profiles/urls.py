"""The addresses: the API's and the pages'."""

from __future__ import annotations

from collections.abc import Callable

from csp.constants import SELF, UNSAFE_INLINE
from csp.decorators import csp_replace
from django.http.response import HttpResponseBase
from django.urls import path, re_path
from django.views.decorators.http import require_safe
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from profiles.api import views
from profiles.pages import browse, patient, pipeline

# Swagger UI's page has a style of its own in it; its script has an address.
_styled_inline = csp_replace({"style-src": [SELF, UNSAFE_INLINE]})


def _leads_to(name: str) -> Callable[..., HttpResponseBase]:
    view = RedirectView.as_view(pattern_name=name, query_string=True)
    return require_safe(view)


urlpatterns = [
    path("", _leads_to("profiles")),
    path("profiles", _leads_to("profiles")),
    path("pipeline", _leads_to("pipeline")),
    path("admin", _leads_to("admin:index")),
    path("livez", views.live),
    path("readyz", views.ready),
    path("metrics", views.counted),
    path("patientprofile", views.PatientProfileView.as_view()),
    path("patientprofile/<path:patient_id>", views.PatientProfileDetailView.as_view()),
    path("api/schema", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs", _styled_inline(SpectacularSwaggerSplitView.as_view())),
    path("pipeline/", pipeline.pipeline, name="pipeline"),
    path("profiles/", browse.profile_list, name="profiles"),
    re_path(r"^profiles/(?P<patient_id>.+)/$", patient.profile_detail, name="profile"),
]
