"""The pages in Chromium, as people use them."""

from __future__ import annotations

import re
from itertools import count
from urllib.parse import quote

import pytest
import requests
from confluent_kafka import Producer
from playwright.sync_api import Page, Request, expect

from tests.browser.service import (
    HAS_LINES,
    SOON_MS,
    await_applied,
    detail,
    post,
)
from tests.engines.process import wait_until
from tests.stack import Web, stack_on

pytestmark = [pytest.mark.browser, pytest.mark.stack]

numbers = count(1)


@pytest.fixture
def patient() -> str:
    """A PatientId that no other test uses, and that addresses have to encode."""
    return f'browsed/{next(numbers)} "it\'s" \N{GRINNING FACE} 100%?#'


def row(page: Page, patient: str):
    return page.get_by_role("row").filter(
        has=page.get_by_role("link", name=patient, exact=True)
    )


def test_an_update_shows_in_the_list_the_timeline_and_the_pipeline(
    open_page, web, consumer, patient
):
    open_page.goto(f"/profiles/?q={quote(patient, safe='')}")
    expect(open_page.get_by_text("There is no profile of")).to_be_visible()
    open_page.evaluate("window.notReloaded = true")

    [receipt] = post(web, {"PatientId": patient, "FirstName": "John"})

    expect(row(open_page, patient)).to_contain_text("John", timeout=SOON_MS)
    assert open_page.evaluate("window.notReloaded")
    open_page.get_by_role("link", name=patient, exact=True).click()
    expect(open_page.get_by_role("heading", level=1)).to_have_text(patient)
    expect(open_page.locator("#profile")).to_contain_text("First name")
    timeline = open_page.get_by_role("region", name="Timeline")
    expect(timeline).to_contain_text("First name: John")
    expect(timeline).to_contain_text("applied")
    expect(timeline.get_by_role("rowheader")).to_have_text(str(receipt["Offset"]))
    fence = receipt["Receipt"].rpartition(".")[0].replace(".", ":")
    expect(open_page.get_by_role("region", name="Item")).to_contain_text(fence)

    open_page.get_by_role("link", name="Pipeline").click()
    end = receipt["Offset"] + 1
    cells = partition(open_page, receipt["Partition"])
    expect(cells.nth(0)).to_have_text(str(end), timeout=SOON_MS)
    expect(cells.nth(1)).to_have_text(str(end), timeout=SOON_MS)
    expect(cells.nth(2)).to_have_text("0")


def partition(page: Page, number: int):
    """The cells of a partition: end and committed offset, lag, assigned to."""
    rows = page.get_by_role("region", name="Partitions").get_by_role("row")
    header = page.get_by_role("rowheader", name=str(number), exact=True)
    return rows.filter(has=header).get_by_role("cell")


def test_the_consumer_that_a_partition_is_assigned_to_is_shown_or_unknown(
    open_page, consumer, request
):
    real = request.config.getoption("--engines") == "real"
    open_page.goto("/pipeline/")
    owner = " at 127.0.0.1" if real else "unknown"
    expect(partition(open_page, 0).nth(3)).to_contain_text(owner, timeout=SOON_MS)


def test_a_waiting_update_is_shown_before_there_is_a_profile_and_becomes_applied(
    open_page, web, no_consumer, patient
):
    post(web, {"PatientId": patient, "LastName": "Doe"})
    open_page.goto(detail(patient))
    expect(open_page.get_by_text("no profile of this patient yet")).to_be_visible()
    timeline = open_page.get_by_role("region", name="Timeline")
    expect(timeline).to_contain_text("waiting")
    no_consumer.start()
    expect(timeline).to_contain_text("applied", timeout=SOON_MS)
    expect(open_page.locator("#profile")).to_contain_text("Doe")


def test_the_lag_is_exact_after_a_batch(open_page, web, consumer, patient):
    open_page.goto("/pipeline/")
    expect(open_page.get_by_text("lag 0,")).to_be_visible(timeout=SOON_MS)
    consumer.stop()
    receipts = post(web, *[{"PatientId": patient} for _ in range(137)])
    lag = partition(open_page, receipts[0]["Partition"]).nth(2)
    expect(lag).to_have_text("137", timeout=SOON_MS)
    expect(open_page.get_by_text("lag 137,")).to_be_visible()
    consumer.start()
    expect(lag).to_have_text("0", timeout=SOON_MS)


def test_dead_letters_are_shown_with_their_reason(
    open_page, web, running, consumer, patient
):
    producer = Producer(
        {
            "bootstrap.servers": running.bootstrap_servers,
            "partitioner": "murmur2_random",
        }
    )
    producer.produce("patient-profile", b"no JSON", patient.encode())
    assert producer.flush(10) == 0
    open_page.goto("/pipeline/")
    letters = open_page.get_by_role("region", name="Dead letters")
    expect(letters).to_contain_text("not_json", timeout=SOON_MS)
    open_page.goto(detail(patient))
    expect(open_page.get_by_role("region", name="Timeline")).to_contain_text(
        "dead-lettered"
    )


def test_a_refresh_leaves_focus_typing_selection_and_scroll_alone(
    open_page, web, consumer, patient
):
    post(web, *[{"PatientId": f"{patient}-{n}", "LastName": "Crowd"} for n in "123"])
    open_page.goto("/profiles/?name=Crowd")
    field = open_page.get_by_label("Name contains")
    expect(row(open_page, f"{patient}-3")).to_be_visible(timeout=SOON_MS)
    open_page.set_viewport_size({"width": 500, "height": 300})
    field.fill("half ty")
    open_page.evaluate("document.activeElement.setSelectionRange(2, 4)")
    open_page.evaluate("window.scrollTo(0, 120)")
    open_page.evaluate("document.getElementById('results').scrollLeft = 90")
    before = open_page.evaluate(STATE)

    post(web, {"PatientId": f"{patient}-4", "LastName": "Crowd"})

    expect(row(open_page, f"{patient}-4")).to_have_count(1, timeout=SOON_MS)
    assert open_page.evaluate(STATE) == before
    link = row(open_page, f"{patient}-1").get_by_role("link")
    link.focus()
    post(web, {"PatientId": f"{patient}-1", "FirstName": "New"})
    expect(row(open_page, f"{patient}-1")).to_contain_text("New", timeout=SOON_MS)
    expect(link).to_be_focused()


STATE = """() => [
  document.activeElement.id, document.activeElement.value,
  document.activeElement.selectionStart, document.activeElement.selectionEnd,
  window.scrollY, document.getElementById('results').scrollLeft,
]"""


@pytest.fixture
def clocked(open_page):
    """The list with a fake clock, and the requests for it from then on."""
    open_page.clock.install()
    open_page.goto("/profiles/")
    requested: list[Request] = []

    def note(request: Request) -> None:
        if request.url.endswith("/profiles/"):
            requested.append(request)

    open_page.on("request", note)
    return open_page, requested


def test_a_hidden_tab_sends_no_requests_until_it_is_shown_again(clocked):
    page, requested = clocked
    hide = "hidden => Object.defineProperty(document, 'hidden', {value: hidden, configurable: true})"
    page.evaluate(hide, True)
    page.clock.run_for(60_000)
    assert requested == []
    page.evaluate(hide, False)
    with page.expect_request("**/profiles/"):
        page.clock.run_for(3_000)


def test_the_refresh_can_be_paused_and_stays_so(clocked):
    page, requested = clocked
    pause = page.get_by_role("button", name="Pause")
    pause.click()
    page.reload()
    expect(pause).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_text("Paused.")).to_be_visible()
    requested.clear()
    page.clock.run_for(60_000)
    assert requested == []


def test_a_refresh_that_fails_says_so_and_goes_on(clocked):
    page, _ = clocked
    page.route("**/profiles/", lambda route: route.fulfill(status=200, body="oops"))
    page.clock.run_for(3_000)
    expect(page.get_by_text("The last refresh failed")).to_be_visible()
    page.unroute("**/profiles/")
    page.clock.run_for(3_000)
    expect(page.get_by_text("Refreshes every 3 seconds.")).to_be_visible()


def test_paging_goes_both_ways_and_survives_a_reload(open_page, web, running, consumer):
    patients = [f"paged {number:03}" for number in range(120)]
    post(web, *[{"PatientId": patient} for patient in patients])
    await_applied(running, *patients)
    open_page.goto("/profiles/")
    first = shown(open_page)
    open_page.get_by_role("link", name="Next page").click()
    expect(open_page.get_by_text("Page 2")).to_be_visible()
    second = shown(open_page)
    assert not {*first} & {*second}
    open_page.reload()
    assert shown(open_page) == second
    open_page.get_by_role("link", name="Next page").click()
    expect(open_page.get_by_text("Page 3")).to_be_visible()
    open_page.get_by_role("link", name="Previous page").click()
    expect(open_page.get_by_text("Page 2")).to_be_visible()
    assert shown(open_page) == second
    open_page.get_by_role("link", name="Previous page").click()
    expect(open_page.get_by_text("Page 1")).to_be_visible()
    assert shown(open_page) == first


def shown(page: Page) -> list[str]:
    texts: list[str] = page.locator("#result_list tbody th").all_inner_texts()
    return texts


def test_the_keyboard_alone_finds_a_patient(open_page, web, running, consumer, patient):
    post(web, {"PatientId": patient, "LastName": "Keys"})
    await_applied(running, patient)
    open_page.goto("/profiles/")
    open_page.keyboard.press("Tab")
    expect(open_page.get_by_text("Skip to main content")).to_be_focused()
    open_page.keyboard.press("Enter")
    open_page.keyboard.press("Tab")
    expect(open_page.get_by_label("Patient ID (exact)")).to_be_focused()
    open_page.keyboard.insert_text(patient)
    open_page.keyboard.press("Enter")
    expect(row(open_page, patient)).to_contain_text("Keys")
    open_page.get_by_role("region", name="Profiles").focus()
    while not open_page.evaluate("document.activeElement.closest('tbody')"):
        open_page.keyboard.press("Tab")
    open_page.keyboard.press("Enter")
    expect(open_page.get_by_role("heading", level=1)).to_have_text(patient)


def test_the_sort_order_is_announced_and_can_be_reversed(
    open_page, web, running, consumer
):
    post(web, *[{"PatientId": f"sorted {c}", "LastName": f"{c} Sorted"} for c in "bca"])
    await_applied(running, *[f"sorted {c}" for c in "bca"])
    open_page.goto("/profiles/?name=Sorted")
    heading = open_page.get_by_role("columnheader", name="Last name")
    for way, letters in [("ascending", "abc"), ("descending", "cba")]:
        heading.get_by_role("link").click()
        expect(heading).to_have_attribute("aria-sort", way)
        assert shown(open_page) == [f"sorted {c}" for c in letters]


class Started(Web):
    """A web process that will not be ready, but answers."""

    def is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/livez", timeout=5).ok
        except requests.ConnectionError:
            return False


def test_without_kafka_the_pages_say_so_and_show_the_rest(
    browser, web, running, consumer, patient
):
    post(web, {"PatientId": patient, "FirstName": "John"})
    await_applied(running, patient)
    without_kafka = stack_on(
        running.directory, "127.0.0.1:9", running.environ["DYNAMODB_ENDPOINT_URL"]
    )
    with (
        Started(without_kafka.directory, without_kafka.environ, "away") as alone,
        browser.new_context(base_url=alone.url) as context,
    ):
        page = context.new_page()
        page.goto("/pipeline/")
        health = page.get_by_role("listitem").filter(has_text="Kafka")
        expect(health).to_contain_text("down")
        expect(
            page.get_by_role("listitem").filter(has_text="DynamoDB")
        ).to_contain_text("up")
        page.goto(detail(patient))
        expect(page.locator("#profile")).to_contain_text("John")
        expect(page.locator("#timeline")).to_contain_text("can't be read")
        alone.stop()


def test_the_chart_shows_what_is_accepted_and_applied(
    open_page, web, consumer, patient
):
    open_page.goto("/pipeline/")
    open_page.wait_for_function(HAS_LINES, timeout=SOON_MS)

    def posted() -> bool:
        post(web, *[{"PatientId": patient} for _ in range(100)])
        label = open_page.get_by_role("img").get_attribute("aria-label") or ""
        rates = [float(rate) for rate in re.findall(r"\d+\.\d", label)]
        return rates[0] > 0 and rates[1] > 0

    wait_until(posted, 30, "the chart shows no rate")
