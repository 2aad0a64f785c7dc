"""Chromium: Debian's, as the browser tests and the README's screenshots start it."""

from __future__ import annotations

import shutil

from playwright.sync_api import Browser, Playwright, ViewportSize

PATH = shutil.which("chromium")
WIDE: ViewportSize = {"width": 1280, "height": 800}

_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def launch(playwright: Playwright) -> Browser:
    """Start the browser; the caller has checked that there is one."""
    return playwright.chromium.launch(executable_path=PATH, args=_FLAGS)
