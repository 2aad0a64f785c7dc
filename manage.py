#!/usr/bin/env python
"""The command line: see `patientsite/__main__.py`."""

from __future__ import annotations

from patientsite.__main__ import main

if __name__ == "__main__":
    main()
