"""The product with one promise taken away, in memory: the judge has to see each.

Each module here stands in for `manage.py`.
"""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "patientsite.settings")
