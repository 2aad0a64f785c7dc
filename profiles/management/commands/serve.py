"""`manage.py serve`: the production server (granian)."""

from __future__ import annotations

import multiprocessing
import resource
from copy import deepcopy
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

CONNECTIONS = 4096
"""Most connections of a worker, where it may have so many descriptors. Further ones wait
to be accepted."""

OTHER_DESCRIPTORS = 128
"""For what else a worker opens: Kafka, DynamoDB, the database, files."""


class Command(BaseCommand):
    """Serves the front; SIGTERM finishes the requests in flight."""

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
            "patientsite.front:application",
            address=options["host"],
            port=options["port"],
            interface=Interfaces.ASGI,
            # In HTTP/2, granian has a thread spin if a client leaves in mid-body.
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(max_buffer_size=HEAD_BYTES),
            websockets=False,
            workers=options["workers"],
            backlog=CONNECTIONS,
            backpressure=_connections(),
            workers_kill_timeout=15,
            log_dictconfig=deepcopy(settings.LOGGING),
        ).serve()


def _connections() -> int:
    """How many a worker can hold. The limit of descriptors is raised for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + OTHER_DESCRIPTORS
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(CONNECTIONS, max(soft // 2, soft - OTHER_DESCRIPTORS))
