"""Every page in light, dark and narrow: accessible, and no wider than the window.

It leaves screenshots for people to look at: `var/screenshots/`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from confluent_kafka import Producer
from playwright.sync_api import Browser

from tests.browser.service import (
    HAS_LINES,
    SOON_MS,
    await_applied,
    detail,
    post,
)
from tests.stack import TABLE, Web

pytestmark = [pytest.mark.browser, pytest.mark.stack]

SCREENSHOTS = Path(__file__).resolve().parents[2] / "var" / "screenshots"

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "narrow": {"viewport": {"width": 375, "height": 812}, "color_scheme": "light"},
}
SHOWN = "shown/1"
LONG = "x" * 128
VISITED = {
    "profiles": "/profiles/?name=Shown",
    "sorted": "/profiles/?name=Shown&sort=-FirstName",
    "no-match": "/profiles/?q=nobody",
    "profile": detail(SHOWN),
    "misplaced": detail("shown/2"),
    "waiting": detail("shown/waiting"),
    "long": detail(LONG),
    "unknown": "/profiles/nobody/",
    "pipeline": "/pipeline/",
    "bad-request": "/profiles/?cursor=x",
    "not-found": "/pipeline/nothing",
    "sign-in": "/admin/login/",
}


@pytest.fixture(scope="module")
def scenery(web, running, the_consumer):
    """An example of everything that the pages show."""
    if not the_consumer.running:
        the_consumer.start()
    names = ["John", "Ana", "Zo\u00eb", "Li"]
    updates = [
        {"PatientId": f"shown/{n}", "FirstName": name, "LastName": "Shown"}
        for n, name in enumerate(names, 1)
    ]
    rest = {"Sex": "Female", "DateOfBirth": "1984-01-02", "Address": "1 High St\nYork"}
    [_, second, *_] = post(
        web, *updates, {"PatientId": SHOWN, **rest, "Email": "ana@example.org"}
    )
    post(web, {"PatientId": SHOWN, "FirstName": None}, {"PatientId": SHOWN})
    config = {"bootstrap.servers": running.bootstrap_servers}
    producer = Producer({**config, "partitioner": "murmur2_random"})
    producer.produce("patient-profile", b"no JSON", SHOWN.encode())
    elsewhere = (second["Partition"] + 1) % 12
    value = json.dumps(updates[1]).encode()
    producer.produce("patient-profile", value, b"shown/2", partition=elsewhere)
    assert producer.flush(10) == 0
    await_applied(running, *[update["PatientId"] for update in updates])
    the_consumer.stop()
    running.dynamodb().update_item(  # as an earlier release left it
        TableName=TABLE,
        Key={"PatientId": {"S": "shown/2"}},
        UpdateExpression="SET #f = :f",
        ExpressionAttributeNames={
            "#f": f"_fence:{second['Receipt'].split('.')[0]}:{elsewhere}"
        },
        ExpressionAttributeValues={":f": {"N": "0"}},
    )
    post(web, {"PatientId": "shown/waiting", "FirstName": "Tom"})
    post(web, {"PatientId": LONG, "FirstName": "W" * 100, "Address": "1 High St " * 20})


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", VISITED)
def test_every_page_is_accessible_and_fits_in_every_look(
    browser: Browser, web: Web, scenery, name, look
):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with browser.new_context(base_url=web.url, **LOOKS[look]) as context:
        page = context.new_page()
        page.goto(VISITED[name])
        if name == "pipeline":
            page.wait_for_function(HAS_LINES, timeout=SOON_MS)
        page.screenshot(path=SCREENSHOTS / f"{name}-{look}.png", full_page=True)
        found = Axe().run(page).response["violations"]
        assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found] == []
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
