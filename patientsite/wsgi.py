"""The WSGI application that a production server loads."""

from __future__ import annotations

import gc
import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "patientsite.settings")

application = get_wsgi_application()

# What stands by now stays: the collector need not go through it again and again.
gc.collect()
gc.freeze()
gc.set_threshold(20_000, 20, 100)
