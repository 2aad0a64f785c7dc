"""The product's settings, and the faults as one more app: in every process."""

from __future__ import annotations

from patientsite.settings import *  # noqa: F403
from patientsite.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.canary.apps.CanaryConfig"]
