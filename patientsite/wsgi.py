"""The WSGI application: Django, for any WSGI server and behind the front."""

from __future__ import annotations

import gc
import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "patientsite.settings")

application = get_wsgi_application()

# What is loaded by now stays: the collector need not visit it again and again.
gc.collect()
gc.freeze()
gc.set_threshold(20_000, 20, 100)
