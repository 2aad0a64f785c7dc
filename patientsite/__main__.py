"""The command line: development unless DJANGO_DEBUG says otherwise.

`manage.py` in a checkout, `patient-profile` where the project is installed.
"""

from __future__ import annotations

import os
import sys

from django.core.management import execute_from_command_line


def main() -> None:
    """Run the command that the arguments name."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "patientsite.settings")
    os.environ.setdefault("DJANGO_DEBUG", "1")
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
