"""The pages: what a browser is shown of the table."""

from __future__ import annotations

import html
import re
from urllib.parse import urlsplit

import pytest
from django.test import Client

from profiles import lookups, pages, serializers
from profiles.upserts import Table
from tests.fakes import update_at

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


def browse(path="/profiles/", **query):
    response = Client().get(path, query)
    assert response["Content-Type"] == "text/html; charset=utf-8"
    return response


@pytest.fixture
def store(dynamodb):
    """Puts a patient's fields into the table."""
    table = Table(dynamodb, "patient-profile")

    def store(patient="1", **fields):
        table.apply([update_at(0, patient, **fields)])

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
    assert re.findall(r'<div class="text">(\w+)</div>', head) == pages.COLUMNS


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
    assert ["PatientId", patient] in rows(detail)
    assert ["FirstName", "John"] in rows(detail)


def test_the_detail_tells_what_is_not_set_and_shows_the_item(store):
    store("1", FirstName="John")
    content = html.unescape(browse("/profiles/1/").content.decode())
    assert "not set" in content
    assert '"_fence:topic-1:0"' in content


def test_an_unknown_profile_is_a_404_page(dynamodb):
    assert browse("/profiles/nobody/").status_code == 404


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


def test_the_next_page_goes_on_where_this_one_ended(store, monkeypatch):
    monkeypatch.setattr(pages, "PAGE_SIZE", 2)
    for number in range(5):
        store(f"patient {number}")
    seen, path = [], "/profiles/"
    for _ in range(3):
        response = Client().get(path)
        seen += [row[0] for row in rows(response)]
        following = re.search(r'href="([^"]*)" rel="next"', response.content.decode())
        path = "/profiles/" + html.unescape(following[1]) if following else ""
    assert sorted(seen) == [f"patient {number}" for number in range(5)]
    assert path == ""


def test_a_first_page_that_is_all_has_no_next(store):
    store()
    assert 'rel="next"' not in browse().content.decode()


@pytest.mark.parametrize("cursor", ["x", "a:b:c", "é", "1", ":::", "\x00"])
def test_a_cursor_that_is_not_ours_is_a_400_page(dynamodb, cursor):
    assert browse(cursor=cursor).status_code == 400


def test_a_cursor_that_was_changed_is_a_400_page(store, monkeypatch):
    monkeypatch.setattr(pages, "PAGE_SIZE", 1)
    store("1")
    store("2")
    cursor = browse().context["cursor"]
    assert browse(cursor=cursor).status_code == 200
    assert browse(cursor="x" + cursor).status_code == 400


def test_without_dynamodb_the_pages_say_so(settings):
    settings.DYNAMODB_ENDPOINT_URL = "http://127.0.0.1:1"
    lookups.profiles.cache_clear()
    for path in ["/profiles/", "/profiles/?q=1", "/profiles/1/"]:
        response = browse(path)
        assert response.status_code == 503
        assert "make local-dev-stack" in response.content.decode()
    lookups.profiles.cache_clear()


def test_the_root_leads_to_the_profiles():
    assert Client().get("/")["Location"] == "/profiles/"


def test_the_pages_are_only_read():
    assert Client().post("/profiles/").status_code == 405


def test_development_says_so_on_the_page(dynamodb):
    assert "Development mode" in browse().content.decode()
