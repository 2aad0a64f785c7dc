"""`manage.py issue_token`: a bearer token for one client, signed with JWT_LOCAL_KEY."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from profiles.access import callers, tokens

MOST_HOURS = 24 * 366


class Command(BaseCommand):
    """Writes only the token to standard output."""

    help = "Issue a bearer token for the API, signed with JWT_LOCAL_KEY."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--scope",
            action="append",
            required=True,
            choices=[callers.READ, callers.WRITE],
            help="what the token permits; may be given twice",
        )
        parser.add_argument(
            "--subject", required=True, help="the client's name in the audit trail"
        )
        parser.add_argument(
            "--hours", type=float, required=True, help="how long the token is valid"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Issue a token. Only a new key revokes it, so keep the hours few."""
        if not settings.JWT_LOCAL_KEY:
            raise CommandError(
                "JWT_LOCAL_KEY is not set: set JWT_LOCAL_KEY, JWT_ISSUER and JWT_AUDIENCE "
                "as for the web process."
            )
        if not 0 < options["hours"] <= MOST_HOURS:
            raise CommandError(f"Give --hours above 0, and at most {MOST_HOURS}.")
        self.stdout.write(
            tokens.issue(options["subject"], options["scope"], options["hours"])
        )
