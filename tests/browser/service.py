"""The service as the browser tests use it over the wire."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import requests

from tests.engines.process import wait_until
from tests.stack import Stack, Web

SOON_MS = 20_000

HAS_LINES = "() => document.querySelector('.line-applied').getAttribute('points')"


def post(web: Web, *updates: dict[str, Any]) -> list[dict[str, Any]]:
    answer = requests.post(f"{web.url}/patientprofile", json=[*updates], timeout=10)
    assert answer.status_code == 202, answer.text
    receipts: list[dict[str, Any]] = answer.json()
    return receipts


def await_applied(running: Stack, *patients: str) -> None:
    wait_until(lambda: {*patients} <= running.items().keys(), 60, "not applied")


def detail(patient: str) -> str:
    return f"/profiles/{quote(patient, safe='')}/"
