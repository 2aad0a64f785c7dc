"""`manage.py runserver`: Django's development server, on port 3000, ready to use."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.staticfiles.management.commands import runserver
from django.core.management import call_command

from profiles.kafka import clients, topics


class Command(runserver.Command):
    """Migrates, says what is missing, and serves."""

    default_port = str(settings.PORT)

    def inner_run(self, *args: Any, **options: Any) -> None:
        """Prepare, then serve as Django does."""
        call_command("migrate", verbosity=0)
        try:
            with clients.admin() as admin:
                topics.configured(admin)
        except (topics.KafkaUnavailable, topics.WrongTopic) as error:
            self.stderr.write(f"{error}; posts are answered 503 meanwhile.")
        super().inner_run(*args, **options)
