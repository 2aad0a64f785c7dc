"""`manage.py serve`: the production server (granian)."""

from __future__ import annotations

import multiprocessing
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings

from profiles.management import errors
from profiles.runtime import metrics

HEAD_BYTES = 32 * 1024
"""Request line and headers; a browser's cookies and a bearer token fit in."""


class Command(BaseCommand):
    """Serves the WSGI application; SIGTERM finishes the requests in flight."""

    help = "Serve with granian."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=settings.PORT)
        parser.add_argument("--workers", type=int, default=1)

    @errors.as_sentences(RuntimeError)  # granian's, for a port that is taken
    def handle(self, *args: Any, **options: Any) -> None:
        """Serve until a signal."""
        if options["workers"] > 1:
            metrics.share(settings.VAR_DIR / "metrics")
            # A forked one would count in this process's memory, as imported above.
            multiprocessing.set_start_method("spawn")
        Granian(
            "patientsite.wsgi:application",
            address=options["host"],
            port=options["port"],
            interface=Interfaces.WSGI,
            # In HTTP/2 a client that leaves in mid-body has a thread spin for good.
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(max_buffer_size=HEAD_BYTES),
            websockets=False,
            workers=options["workers"],
            blocking_threads=settings.WEB_THREADS,
            workers_kill_timeout=15,
        ).serve()
