"""`manage.py runserver`: Django's development server, on port 3000, ready to use."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.staticfiles.management.commands import runserver
from django.core.management import call_command

from profiles.kafka import clients, topics
from profiles.management import errors


class Command(runserver.Command):
    """Migrates, reports a Kafka that is not ready, and serves."""

    default_port = str(settings.PORT)

    def inner_run(self, *args: Any, **options: Any) -> None:
        """Prepare, then serve with Django's server."""
        call_command("migrate", verbosity=0)
        try:
            with clients.admin() as admin:
                topics.configured(admin)
        except errors.EXPECTED as error:
            said = errors.sentence(error)
            self.stderr.write(f"POST returns 503 for now: {said}.")
        super().inner_run(*args, **options)
