"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import signals
from django.db import close_old_connections, reset_queries


class ProfilesConfig(AppConfig):
    """Patient profiles."""

    name = "profiles"

    def ready(self) -> None:
        """Leave the database alone around a POST of updates, which has no use for it;
        `access.database_connections` looks after it for everything else.
        """
        signals.request_started.disconnect(reset_queries)
        signals.request_started.disconnect(close_old_connections)
        signals.request_finished.disconnect(close_old_connections)
