"""`make screenshots`: the README's pictures, taken anew.

In: the embedded engines, the service, and made-up patients. Out: the PNGs of
`docs/images/`. Nobody in them exists.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Page, ViewportSize, sync_playwright

from tests import stack
from tests.browser import chromium
from tests.browser.service import detail, post
from tests.stack import Web

IMAGES = stack.ROOT / "docs" / "images"

SIZE: ViewportSize = {"width": 1280, "height": 900}

FIELDS = ("PatientId", "FirstName", "LastName", "DateOfBirth", "Sex", "Phone")
PATIENTS: list[tuple[str | None, ...]] = [
    ("P-1001", "Ana", "Lindqvist", "1984-01-02", "Female"),
    ("P-1002", "John", "Doe", "1990-05-17", "Male", "+1 555 0142"),
    ("P-1003", "Zo\u00eb", "Okafor", "1978-11-30", "Female", "+44 20 7946 0018"),
    ("P-1004", "Mateo", "Garc\u00eda", "2001-03-09", "Male", None),
    ("P-1005", "Aiko", "Tanaka", "1969-07-21", "Female", None),
    ("P-1006", "Sam", "Novak", "1995-12-01", "Other", "+49 30 5555 018"),
    ("P-1007", "Priya", "Raman", "1988-08-14", "Female", None),
    ("P-1008", "Liam", "Byrne", "1956-02-28", "Male", "+353 1 555 0117"),
    ("P-1009", "Chloe", "Martin", "1999-10-05", "Female", None),
    ("P-1010", "Noah", "Weber", "1948-04-19", "Male", "+49 89 5555 014"),
    ("P-1011", "Fatima", "Haddad", "1992-06-26", "Female", "+33 1 99 00 17 55"),
    ("P-1012", "Jonas", "Berg", "1975-09-12", "Male", None),
    ("P-1013", "Grace", "Mensah", "1983-12-24", "Female", "+44 29 2018 0173"),
    ("P-1014", "Kim", "Tran", "2004-02-11", "Unknown", None),
]
SHOWN = "P-1001"


def main() -> None:
    """Start everything, post, take the pictures, end everything."""
    if chromium.PATH is None:
        sys.exit("Chromium is not installed: on Debian `apt install chromium`.")
    IMAGES.mkdir(exist_ok=True)
    with (
        TemporaryDirectory() as directory,
        stack.embedded(Path(directory)) as running,
        running.web() as web,
    ):
        _post_patients(web)
        running.catch_up()
        post(web, {"PatientId": SHOWN, "Phone": "+46 8 555 0100"})
        _take_pictures(web)
        web.stop()


def _post_patients(web: Web) -> None:
    post(web, *[dict(zip(FIELDS, values, strict=False)) for values in PATIENTS])
    post(web, {"PatientId": SHOWN, "Email": "ana@example.org", "IsPregnant": True})
    post(web, {"PatientId": SHOWN, "LastName": "Berg"})
    post(web, {"PatientId": SHOWN, "IsPregnant": None})


def _take_pictures(web: Web) -> None:
    with sync_playwright() as playwright:
        browser = chromium.launch(playwright)
        with browser.new_context(base_url=web.url, viewport=SIZE) as context:
            page = context.new_page()
            page.goto("/profiles/?sort=PatientId")
            _take(page, "list")
            page.goto(detail(SHOWN))
            page.get_by_role("heading", name="Timeline").wait_for()
            _take(page, "patient")
        browser.close()


def _take(page: Page, name: str) -> None:
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path)
    sys.stdout.write(f"{path.relative_to(stack.ROOT)}: {path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
