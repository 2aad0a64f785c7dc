"""The WSGI application that a production server loads."""

from __future__ import annotations

import gc
import multiprocessing
import os
from threading import Thread

from django.conf import settings
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "patientsite.settings")

application = get_wsgi_application()

from profiles import ingest  # noqa: E402 not before the applications are loaded


def keep_to_one_core() -> None:
    """Give this worker one core, the next worker the next; its threads inherit it.

    They share one interpreter, and to pass it from core to core takes a third of what
    an update costs. Before any thread is started.
    """
    cores = sorted(os.sched_getaffinity(0))
    worker = (*multiprocessing.current_process()._identity, 1)[0]
    os.sched_setaffinity(0, {cores[(worker - 1) % len(cores)]})


if settings.WEB_ONE_CORE:
    keep_to_one_core()
if multiprocessing.parent_process():  # no fork may follow: no thread outlives one
    Thread(target=ingest.connect, name="connect", daemon=True).start()

# What stands by now stays: the collector need not go through it again and again.
gc.collect()
gc.freeze()
gc.set_threshold(20_000, 20, 100)
