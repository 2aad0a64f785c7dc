"""A real browser and a running service. Imports nothing of the product."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests import stack
from tests.browser import chromium
from tests.engines.process import Engine
from tests.stack import Stack, Web


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if chromium.PATH is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is not installed, and in CI nothing is skipped")
        pytest.skip("chromium is not installed: on Debian `apt install chromium`")
    with sync_playwright() as playwright:
        yield chromium.launch(playwright)


@pytest.fixture(scope="module")
def running(
    browser: Browser,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    start = {"embedded": stack.embedded, "real": stack.real}
    directory: Path = tmp_path_factory.mktemp("browser")
    with start[request.config.getoption("--engines")](directory) as engines:
        yield engines


@pytest.fixture(scope="module")
def web(running: Stack) -> Iterator[Web]:
    with running.web() as process:
        yield process
        process.stop()


@pytest.fixture(scope="module")
def the_consumer(running: Stack) -> Iterator[Engine]:
    member = running.member("browsed")
    yield member
    member.stop()


@pytest.fixture
def consumer(the_consumer: Engine) -> Engine:
    """The one consumer, running."""
    if not the_consumer.running:
        the_consumer.start()
        the_consumer.wait_ready()
    return the_consumer


@pytest.fixture
def no_consumer(the_consumer: Engine) -> Engine:
    """The one consumer, stopped: accepted updates wait."""
    the_consumer.stop()
    return the_consumer


@pytest.fixture
def open_page(browser: Browser, web: Web) -> Iterator[Page]:
    """A page at the service's address; a message in its console is a failure."""
    messages: list[str] = []
    with browser.new_context(base_url=web.url, viewport=chromium.WIDE) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("console", lambda message: messages.append(message.text))
        yield page
    assert messages == []
