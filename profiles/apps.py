"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import signals
from django.core.cache import close_caches
from django.core.handlers.base import reset_urlconf
from django.db import close_old_connections, reset_queries

from profiles.runtime import log_format


class ProfilesConfig(AppConfig):
    """Patient profiles."""

    name = "profiles"

    def ready(self) -> None:
        """Let no exception print its text. Leave the database alone around a POST of
        updates, which has no use for it; `access.database_connections` looks after it
        for everything else. The cache is this process's memory, with nothing to close,
        and every request sets its own URLconf.
        """
        log_format.log_unhandled()
        signals.request_started.disconnect(reset_queries)
        signals.request_started.disconnect(close_old_connections)
        signals.request_finished.disconnect(close_old_connections)
        signals.request_finished.disconnect(close_caches)
        signals.request_finished.disconnect(reset_urlconf)
