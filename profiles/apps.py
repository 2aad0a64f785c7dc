"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class ProfilesConfig(AppConfig):
    """Patient profiles."""

    name = "profiles"
