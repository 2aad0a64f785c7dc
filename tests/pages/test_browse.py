"""The list of profiles, and what all pages share."""

from __future__ import annotations

import html
import re
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client

from profiles.core import serializers
from profiles.dynamodb import reader
from profiles.pages import browse
from tests.pages.shown import get_page, rows

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

pytestmark = pytest.mark.usefixtures("kafka")


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
    assert rows(get_page()) == [["7", *fields.values(), moment]]


def test_the_columns_are_named_after_the_fields(store):
    store()
    head = get_page().content.decode().partition("</thead>")[0]
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
        content = get_page(path).content.decode()
        assert "<script>alert" not in content
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in content


@pytest.mark.parametrize("patient", STRANGE_IDS)
def test_every_row_leads_to_its_profile(store, patient):
    store(patient, FirstName="John")
    (link,) = links(get_page())
    parts = urlsplit(link)
    assert (parts.query, parts.fragment, link.count("/")) == ("", "", 3)
    detail = get_page(link)
    assert detail.status_code == 200
    assert ["Patient ID", patient] in rows(detail)
    assert ["First name", "John"] in rows(detail)


def test_the_empty_table_shows_the_curl(dynamodb):
    content = html.unescape(get_page().content.decode())
    assert "curl --request POST 'http://testserver/patientprofile'" in content


def test_search_is_exact(store):
    store("1")
    store("11")
    assert [row[0] for row in rows(get_page(q="1"))] == ["1"]
    assert rows(get_page(q="111")) == []
    assert (
        "There is no profile of <strong>111</strong>"
        in get_page(q="111").content.decode()
    )
    assert rows(get_page(q=" 1")) == []


@pytest.mark.parametrize("wanted", ["<script>", "x" * 5000, "\x00", "%", "é"])
def test_search_for_anything_is_a_page(dynamodb, wanted):
    response = get_page(q=wanted)
    assert response.status_code == 200
    assert "<script>" not in response.content.decode().partition("<form")[2]


def following(response, rel="next"):
    """The address that a page leads to."""
    found = re.search(rf'href="([^"]*)" rel="{rel}"', response.content.decode())
    return "/profiles/" + html.unescape(found[1]) if found else ""


@pytest.fixture
def five(store, monkeypatch):
    """Five patients, and pages of two."""
    monkeypatch.setattr(browse, "PAGE_SIZE", 2)
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
    first = get_page(sort="-FirstName")
    by_name = [row[1] for row in rows(first)]
    assert by_name == sorted(by_name, reverse=True)
    assert 'aria-sort="descending"' in first.content.decode()
    assert "sort=-FirstName" in following(first)
    assert {*ids(first)} == {*ids(get_page())}


def test_what_has_no_value_is_sorted_last(store):
    store("1")
    store("2", LastName="Doe")
    for sort in ("LastName", "-LastName"):
        assert ids(get_page(sort=sort)) == ["2", "1"]


def test_an_unknown_sort_column_is_a_400_page(dynamodb):
    response = get_page(sort="Shoe")
    assert response.status_code == 400
    assert "Invalid sort column." in response.content.decode()


@pytest.mark.parametrize("text", ["doe", "OHN", "john doe", "doe jo", "Jôhn"])
def test_text_is_found_in_the_names(store, text):
    store("1", FirstName="John", LastName="Doe")
    store("2", FirstName="Ana", Address="Doe, John")
    response = get_page(name=text)
    assert ids(response) == ["1"]
    assert "1 match. Searched 2 profiles, the whole table." in response.content.decode()


def test_accents_of_a_name_need_not_be_typed(store):
    store("1", LastName="Müller")
    assert ids(get_page(name="muller")) == ["1"]


def test_a_search_says_how_far_it_got_and_goes_on_from_there(five, monkeypatch):
    monkeypatch.setattr(reader.TableReader.search, "__defaults__", (None, 2))
    response = get_page(name="name 4")
    found, steps = ids(response), 1
    while path := following(response):
        assert "Searched 2 profiles. " in response.content.decode()
        response = Client().get(path)
        found += ids(response)
        steps += 1
    assert (found, steps) == (["patient 4"], 3)
    assert "Searched 1 profile, to the end of the table." in response.content.decode()


def test_a_search_without_a_match_says_so(five):
    content = get_page(name="<nobody>").content.decode()
    assert "No name contains <strong>&lt;nobody&gt;</strong>." in content
    assert "0 matches. Searched 5 profiles, the whole table." in content


def test_a_first_page_that_is_all_has_no_next(store):
    store()
    assert 'rel="next"' not in get_page().content.decode()


@pytest.mark.parametrize("cursor", ["x", "a:b:c", "é", "1", ":::", "\x00"])
def test_an_invalid_cursor_is_a_400_page(dynamodb, cursor):
    response = get_page(cursor=cursor)
    assert response.status_code == 400
    assert "Invalid cursor." in response.content.decode()


def test_a_cursor_that_was_changed_is_a_400_page(store, monkeypatch):
    monkeypatch.setattr(browse, "PAGE_SIZE", 1)
    store("1")
    store("2")
    (cursor,) = parse_qs(urlsplit(following(get_page())).query)["cursor"]
    assert get_page(cursor=cursor).status_code == 200
    assert get_page(cursor="x" + cursor).status_code == 400


def test_without_dynamodb_the_pages_say_so(settings):
    settings.DYNAMODB_ENDPOINT_URL = "http://127.0.0.1:1"
    reader.profiles.cache_clear()
    for path in ["/profiles/", "/profiles/?q=1", "/profiles/1/"]:
        response = get_page(path)
        assert response.status_code == 503
        assert "make local-dev-stack" in response.content.decode()
    reader.profiles.cache_clear()


@pytest.mark.parametrize("name", ["embedded", "local", "production"])
def test_the_badge_names_the_environment(dynamodb, settings, name):
    settings.ENVIRONMENT = name
    assert f'badge-{name}">{name}<' in get_page().content.decode()


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
    assert "Development mode" in get_page().content.decode()
