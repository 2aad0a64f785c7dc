"""The fault run: harm everything while clients post, then judge from outside."""

from __future__ import annotations
