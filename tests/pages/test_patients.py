"""The pages: what a browser is shown of the table."""

from __future__ import annotations

import html
import re
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client

from profiles.core import serializers
from profiles.core.updates import Receipt
from profiles.dynamodb import reader
from profiles.dynamodb.writer import TableWriter
from profiles.kafka import topics
from profiles.kafka.reader import LogReader
from profiles.kafka.topics import KafkaUnavailable
from profiles.pages import patients, timeline
from tests.fakes import OURS, TOPIC, update_at

STRANGE_IDS = [
    "a/b",
    "a/",
    "/",
    "//",
    'it"s',
    "O'Brien",
    "<script>alert(1)</script>",
    "a b",
    "100%",
    "%2F",
    "?q=1",
    "#1",
    "a&b=c",
    "\N{GRINNING FACE}",
    "admin",
]


@pytest.fixture(autouse=True)
def kafka(monkeypatch):
    """Kafka is away, unless a test says what it holds."""

    class Away:
        def current(self):
            raise KafkaUnavailable("Kafka does not answer")

    monkeypatch.setattr(topics, "watch", Away)


@pytest.fixture
def story(monkeypatch):
    """Lets the log hold these entries of whatever patient is asked for."""

    def tell(*entries, read=range(100), strays=()):
        def read_timeline(patient_id, before):
            item = reader.profiles().get(patient_id)
            told = timeline.Timeline(3, [*entries], read, range(100), strays)
            return item, told

        monkeypatch.setattr(patients, "_read_timeline", read_timeline)

    return tell


def entry(offset, fate, changes=None, reason=""):
    place = Receipt(update_at(offset).source, offset)
    return timeline.Entry(place, 1_700_000_000_000, fate, changes or {}, reason)


def browse(path="/profiles/", **query):
    response = Client().get(path, query)
    assert response["Content-Type"] == "text/html; charset=utf-8"
    return response


@pytest.fixture
def store(dynamodb):
    """Puts a patient's fields into the table."""
    table = TableWriter(dynamodb, "patient-profile")

    def store(patient="1", **fields):
        table.apply([update_at(0, patient, **fields)], OURS)

    return store


def rows(response):
    """The texts of the table's cells, row by row."""
    body = response.content.decode().partition("<tbody>")[2].partition("</tbody>")[0]
    cells = r"<t[dh][^>]*>(?:<a [^>]*>)?(.*?)(?:</a>)?</t[dh]>"
    return [
        [html.unescape(text) for text in re.findall(cells, row, re.S)]
        for row in body.split("</tr>")[:-1]
    ]


def links(response):
    """The addresses that the rows lead to."""
    found = re.findall(r'<th scope="row"><a href="([^"]*)"', response.content.decode())
    return [html.unescape(link) for link in found]


def test_a_row_shows_every_field_as_it_is_now(store):
    fields = {
        "FirstName": "John",
        "LastName": "Doe",
        "DateOfBirth": "1984-01-02",
        "Sex": "Female",
        "IsPregnant": "False",
        "Email": "john@example.org",
        "Phone": "+44 1",
        "Address": "1 High St",
    }
    assert {"PatientId", *fields} == serializers.PatientProfile().fields.keys()
    store("7", **fields)
    moment = "2023-11-14T22:13:20.000+00:00"
    assert rows(browse()) == [["7", *fields.values(), moment]]


def test_the_columns_are_named_after_the_fields(store):
    store()
    head = browse().content.decode().partition("</thead>")[0]
    assert re.findall(r">([\w ]+)</a></th>", head) == [
        "Patient ID",
        "First name",
        "Last name",
        "Date of birth",
        "Sex",
        "Is pregnant",
        "Email",
        "Phone",
        "Address",
        "Updated at",
    ]


def test_values_are_escaped(store):
    store(FirstName="<script>alert(1)</script>", LastName="\"&'")
    for path in ["/profiles/", "/profiles/1/"]:
        content = browse(path).content.decode()
        assert "<script>alert" not in content
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in content


@pytest.mark.parametrize("patient", STRANGE_IDS)
def test_every_row_leads_to_its_profile(store, patient):
    store(patient, FirstName="John")
    (link,) = links(browse())
    parts = urlsplit(link)
    assert (parts.query, parts.fragment, link.count("/")) == ("", "", 3)
    detail = browse(link)
    assert detail.status_code == 200
    assert ["Patient ID", patient] in rows(detail)
    assert ["First name", "John"] in rows(detail)


def test_the_detail_tells_what_is_not_set_and_shows_the_item(store):
    store("1", FirstName="John")
    content = html.unescape(browse("/profiles/1/").content.decode())
    assert "not set" in content
    assert '"_fence:topic-1:0"' in content
    assert '"_incarnation"' in content
    assert str(OURS) not in str(rows(browse("/profiles/1/")))


def test_an_unknown_patient_is_a_404_page(dynamodb, story):
    story()
    response = browse("/profiles/nobody/")
    assert response.status_code == 404
    assert "no record in its partition on the topic, 3," in response.content.decode()


def test_an_unknown_patient_of_a_log_that_was_cut_can_be_looked_for_further(
    dynamodb, story
):
    story(read=range(40, 100))
    response = browse("/profiles/nobody/")
    assert response.status_code == 404
    assert 'href="?before=40"' in response.content.decode()


def test_a_patient_without_an_item_shows_what_waits(dynamodb, story):
    story(entry(7, timeline.Fate.WAITING, {"FirstName": "John"}))
    response = browse("/profiles/new/")
    assert response.status_code == 200
    content = response.content.decode()
    assert "no profile of this patient yet" in content
    assert "waiting</span>" in content
    assert "First name: John" in content


def test_the_timeline_tells_what_each_record_did(store, story):
    store("1", FirstName="John")
    story(
        entry(9, timeline.Fate.DEAD_LETTERED, reason="not_json: at character 0"),
        entry(8, timeline.Fate.APPLIED, {"Sex": None, "LastName": "<b>"}),
    )
    content = browse("/profiles/1/").content.decode()
    assert "no update: not_json: at character 0" in content
    assert "Sex: <em>removed</em>" in content
    assert "Last name: &lt;b&gt;" in content
    assert "2023-11-14 22:13:20.000" in content


def test_a_timeline_that_was_cut_says_so_and_goes_on(store, story):
    store("1")
    story(entry(99, timeline.Fate.APPLIED), read=range(40, 100))
    content = browse("/profiles/1/").content.decode()
    assert "Cut here" in content
    assert 'href="?before=40"' in content


def test_an_item_that_includes_updates_of_another_partition_says_so(store, story):
    store("1")
    story(entry(99, timeline.Fate.APPLIED))
    content = browse("/profiles/1/").content.decode()
    assert "no record of this patient belongs" not in content
    story(entry(99, timeline.Fate.APPLIED), strays=[5, 7])
    content = browse("/profiles/1/").content.decode()
    assert "includes updates from partition 5, 7, where no record" in content


def test_a_write_in_between_never_looks_like_a_loss(monkeypatch):
    """Read in another order, what is applied meanwhile would be told as missing."""
    read: list[str] = []

    def reading(what, answer):
        def note(*_, **__):
            read.append(what)
            return answer

        return note

    watch = SimpleNamespace(current=lambda: TOPIC)
    profiles = SimpleNamespace(
        identity=lambda: "table-1", get=reading("the item", {"PatientId": {"S": "1"}})
    )
    monkeypatch.setattr(topics, "watch", lambda: watch)
    monkeypatch.setattr(reader, "profiles", lambda: profiles)
    monkeypatch.setattr(LogReader, "committed", reading("the offsets", {}))
    monkeypatch.setattr(timeline, "read", reading("the log", None))
    patients._read_timeline("1", None)
    assert read == ["the offsets", "the item", "the log"]


def test_the_timeline_counts_what_was_committed_for_this_table_alone(monkeypatch):
    def committed(log: LogReader, store: str | None) -> dict[int, int]:
        asked.append(store)
        return {}

    asked: list[str | None] = []
    profiles = SimpleNamespace(identity=lambda: "table-1", get=lambda _: None)
    watch = SimpleNamespace(current=lambda: TOPIC)
    monkeypatch.setattr(topics, "watch", lambda: watch)
    monkeypatch.setattr(reader, "profiles", lambda: profiles)
    monkeypatch.setattr(LogReader, "committed", committed)
    monkeypatch.setattr(timeline, "read", lambda *_: None)
    patients._read_timeline("1", None)
    assert asked == ["table-1"]


def test_without_kafka_the_detail_shows_the_item_and_says_so(store):
    store("1", FirstName="John")
    response = browse("/profiles/1/")
    assert response.status_code == 200
    assert "John" in response.content.decode()
    assert "Kafka does not answer" in response.content.decode()


def test_without_any_client_for_kafka_the_detail_shows_the_item_and_says_so(
    store, settings
):
    settings.KAFKA_CONFIG = {"security.protocol": "SSL", "ssl.ca.location": "/nowhere"}
    store("1", FirstName="John")
    response = browse("/profiles/1/")
    assert response.status_code == 200
    assert "John" in response.content.decode()
    assert "Kafka can&#x27;t be read (_INVALID_ARG)" in response.content.decode()
    assert browse("/profiles/nobody/").status_code == 503


def test_without_kafka_nobody_is_told_to_be_unknown(dynamodb):
    response = browse("/profiles/nobody/")
    assert response.status_code == 503
    assert "Kafka does not answer" in response.content.decode()


@pytest.mark.parametrize("before", ["x", "-1", "1.5", "٣", "9" * 30])
def test_what_is_no_offset_is_a_400_page(store, before):
    assert browse("/profiles/1/", before=before).status_code == 400


def test_the_empty_table_shows_the_curl(dynamodb):
    content = html.unescape(browse().content.decode())
    assert "curl --request POST 'http://testserver/patientprofile'" in content


def test_search_is_exact(store):
    store("1")
    store("11")
    assert [row[0] for row in rows(browse(q="1"))] == ["1"]
    assert rows(browse(q="111")) == []
    assert "No profile has the PatientId" in browse(q="111").content.decode()
    assert rows(browse(q=" 1")) == []


@pytest.mark.parametrize("wanted", ["<script>", "x" * 5000, "\x00", "%", "é"])
def test_search_for_anything_is_a_page(dynamodb, wanted):
    response = browse(q=wanted)
    assert response.status_code == 200
    assert "<script>" not in response.content.decode().partition("<form")[2]


def following(response, rel="next"):
    """The address that a page leads to."""
    found = re.search(rf'href="([^"]*)" rel="{rel}"', response.content.decode())
    return "/profiles/" + html.unescape(found[1]) if found else ""


@pytest.fixture
def five(store, monkeypatch):
    """Five patients, and pages of two."""
    monkeypatch.setattr(patients, "PAGE_SIZE", 2)
    for number in range(5):
        store(f"patient {number}", FirstName=f"Name {number}")


def ids(response):
    return [row[0] for row in rows(response)]


def test_the_pages_lead_through_the_whole_table_and_back(five):
    walk = [Client().get("/profiles/")]
    while path := following(walk[-1]):
        walk.append(Client().get(path))
    seen = [ids(response) for response in walk]
    assert sorted(sum(seen, [])) == [f"patient {number}" for number in range(5)]
    back = walk[-1:]
    while path := following(back[-1], "prev"):
        back.append(Client().get(path))
    assert [ids(response) for response in reversed(back)] == seen


def test_sorting_is_of_the_page_and_goes_along_with_it(five, store):
    store("unnamed")
    first = browse(sort="-FirstName")
    by_name = [row[1] for row in rows(first)]
    assert by_name == sorted(by_name, reverse=True)
    assert 'aria-sort="descending"' in first.content.decode()
    assert "sort=-FirstName" in following(first)
    assert {*ids(first)} == {*ids(browse())}


def test_what_has_no_value_is_sorted_last(store):
    store("1")
    store("2", LastName="Doe")
    for sort in ("LastName", "-LastName"):
        assert ids(browse(sort=sort)) == ["2", "1"]


def test_there_is_no_sorting_by_what_is_no_column(dynamodb):
    assert browse(sort="Shoe").status_code == 400


@pytest.mark.parametrize("text", ["doe", "OHN", "john doe", "doe jo", "Jôhn"])
def test_text_is_found_in_the_names(store, text):
    store("1", FirstName="John", LastName="Doe")
    store("2", FirstName="Ana", Address="Doe, John")
    response = browse(name=text)
    assert ids(response) == ["1"]
    assert "1 shown, 2 scanned: the whole table" in response.content.decode()


def test_accents_of_a_name_need_not_be_typed(store):
    store("1", LastName="Müller")
    assert ids(browse(name="muller")) == ["1"]


def test_a_search_tells_what_it_scanned_and_goes_on_from_there(five, monkeypatch):
    monkeypatch.setattr(reader.TableReader.search, "__defaults__", (None, 2))
    response = browse(name="name 4")
    found, steps = ids(response), 1
    while path := following(response):
        assert "2 scanned; " in response.content.decode()
        response = Client().get(path)
        found += ids(response)
        steps += 1
    assert (found, steps) == (["patient 4"], 3)
    assert "1 scanned: the end of the table" in response.content.decode()


def test_a_search_without_a_match_says_so(five):
    content = browse(name="<nobody>").content.decode()
    assert "No name has <strong>&lt;nobody&gt;</strong> in it." in content
    assert "0 shown, 5 scanned: the whole table" in content


def test_a_first_page_that_is_all_has_no_next(store):
    store()
    assert 'rel="next"' not in browse().content.decode()


@pytest.mark.parametrize("cursor", ["x", "a:b:c", "é", "1", ":::", "\x00"])
def test_a_cursor_that_is_not_ours_is_a_400_page(dynamodb, cursor):
    assert browse(cursor=cursor).status_code == 400


def test_a_cursor_that_was_changed_is_a_400_page(store, monkeypatch):
    monkeypatch.setattr(patients, "PAGE_SIZE", 1)
    store("1")
    store("2")
    (cursor,) = parse_qs(urlsplit(following(browse())).query)["cursor"]
    assert browse(cursor=cursor).status_code == 200
    assert browse(cursor="x" + cursor).status_code == 400


def test_without_dynamodb_the_pages_say_so(settings):
    settings.DYNAMODB_ENDPOINT_URL = "http://127.0.0.1:1"
    reader.profiles.cache_clear()
    for path in ["/profiles/", "/profiles/?q=1", "/profiles/1/"]:
        response = browse(path)
        assert response.status_code == 503
        assert "make local-dev-stack" in response.content.decode()
    reader.profiles.cache_clear()


@pytest.mark.parametrize("name", ["embedded", "local", "production"])
def test_the_badge_tells_the_environment(dynamodb, settings, name):
    settings.ENVIRONMENT = name
    assert f'badge-{name}">{name}<' in browse().content.decode()


def test_the_root_leads_to_the_profiles():
    assert Client().get("/")["Location"] == "/profiles/"


@pytest.mark.parametrize("page", ["/profiles", "/pipeline", "/admin"])
def test_an_address_without_its_slash_leads_to_the_page(page):
    assert Client().get(f"{page}?q=1")["Location"] == f"{page}/?q=1"
    assert Client().post(page).status_code == 405


@pytest.mark.parametrize("path", ["/patientprofile/", "/livez/", "/api/docs/"])
def test_the_api_has_no_second_address(path):
    assert Client().get(path).status_code == 404


def test_the_pages_are_only_read():
    assert Client().post("/profiles/").status_code == 405


def test_development_says_so_on_the_page(dynamodb):
    assert "Development mode" in browse().content.decode()
