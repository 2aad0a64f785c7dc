"""The WSGI application that a production server loads."""

from __future__ import annotations

import gc
import multiprocessing
import os
from threading import Thread

from django.conf import settings
from django.core.wsgi import get_wsgi_application

from patientsite import cores

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "patientsite.settings")

application = get_wsgi_application()

from profiles.api import posting  # noqa: E402 not before the applications are loaded

if multiprocessing.parent_process():  # no fork may follow: no thread outlives one
    if settings.WEB_ONE_CORE:
        cores.keep_to_one()
    Thread(target=posting.connect, name="connect", daemon=True).start()

# What stands by now stays: the collector need not go through it again and again.
gc.collect()
gc.freeze()
gc.set_threshold(20_000, 20, 100)
