"""The ASGI application that `manage.py serve` loads: the front before Django."""

from __future__ import annotations

from patientsite.wsgi import application as django

# Not before Django's applications are loaded, which `wsgi` does.
from profiles.api.front import Front

application = Front(django)
