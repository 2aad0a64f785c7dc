"""The pipeline page: it shows what was read, and says what was not."""

from __future__ import annotations

import html

import pytest
from django.test import Client

from profiles.core.updates import Receipt, Source
from profiles.dynamodb import health
from profiles.kafka import flow
from profiles.kafka.dead_letters import Letter
from profiles.kafka.flow import Flow, KeptLetters, PartitionFlow
from profiles.kafka.groups import Group
from profiles.kafka.topics import KafkaUnavailable
from tests.fakes import NOW_MS, TOPIC

OBSERVED = {
    "flow": (flow, "group_flow"),
    "letters": (flow, "kept_letters"),
    "table": (health, "table"),
}


@pytest.fixture
def page(monkeypatch, observe):
    """Shows the pipeline page with what the three readings give, or raise."""

    def show(**given):
        for name, where in OBSERVED.items():
            answer = given.get(name, KafkaUnavailable(f"{name} is away"))

            def read(answer=answer):
                if isinstance(answer, Exception):
                    raise answer
                return answer

            observer = observe(read, KafkaUnavailable)
            monkeypatch.setattr(*where, lambda *_, observer=observer: observer)
        response = Client().get("/pipeline/")
        assert response.status_code == 200
        return html.unescape(" ".join(response.content.decode().split()))

    return show


def flow_of(*partitions, owners=frozenset({(0, "a")})):
    group = Group("STABLE", None if owners is None else dict(owners))
    return Flow(TOPIC, group, partitions, ())


def test_the_page_renders_and_says_so_when_all_is_away(page):
    content = page()
    for name in OBSERVED:
        assert f"{name} is away" in content
    assert content.count(">down<") == 2
    assert "lag unknown" in content
    assert "0.0<small>/s" not in content


def test_the_page_shows_each_partition(page):
    content = page(flow=flow_of(PartitionFlow(0, 0, 1234, 4, "a")))
    row = content.partition('<tr data-key="0">')[2].partition("</tr>")[0]
    assert [text for text in row.replace(">", "<").split("<") if text in SHOWN] == SHOWN


SHOWN = ["0", "1234", "4", "1230", "a"]


@pytest.mark.parametrize(
    ("start", "committed", "shown"),
    [
        (1200, 700, "Partition 0: offsets 700 to 1199 are missing"),
        (1200, None, "Partition 0: offsets 0 to 1199 are missing"),
        (1200, 1200, ""),
        (0, None, ""),
    ],
    ids=["behind the gap", "nothing committed", "past it", "no gap"],
)
def test_the_page_says_where_records_are_missing(page, start, committed, shown):
    content = page(flow=flow_of(PartitionFlow(0, start, 1234, committed, "a")))
    assert ("are missing" in content) is bool(shown)
    assert shown in content


def test_the_page_says_that_owners_are_unknown(page):
    content = page(flow=flow_of(PartitionFlow(0, 0, 9, 4, None), owners=None))
    assert "does not report which consumer" in content
    assert "unknown" in content


def letter(offset, code, kept_ms=NOW_MS):
    place = Receipt(Source(TOPIC.id, 0), offset)
    kept = Receipt(Source("dead letters", 0), offset)
    return Letter(place, TOPIC.name, 0, code, "why", kept, kept_ms)


def test_the_page_says_how_many_dead_letters_are_misplaced_and_what_that_means(page):
    letters = [letter(offset, "wrong_partition") for offset in range(30)]
    letters += [letter(30, "not_json")]
    redriven = {letters[0].receipt: "a receipt"}
    content = page(letters=KeptLetters(letters, redriven, 500))
    assert "29 of the newest 31 dead letters were in a wrong partition" in content
    assert "partitioner=murmur2_random" in content


def test_the_page_says_nothing_of_misplaced_dead_letters_where_there_are_none(page):
    letters = [letter(1, "wrong_partition"), letter(2, "not_json")]
    redriven = {letters[0].receipt: "a receipt"}
    content = page(letters=KeptLetters(letters, redriven, 2))
    assert "not_json" in content
    assert "partitioner=" not in content


def test_the_page_says_that_there_are_no_dead_letters_only_when_all_was_read(page):
    assert "No dead letters." in page(letters=KeptLetters([], {}, 0))
    content = page(letters=KeptLetters([], {}, 5000, unread=3000))
    assert "No dead letters." not in content
    assert "No dead letters among the newest 2000 of 5000 records" in content


@pytest.mark.parametrize("timestamp_ms", [2**60, -(2**60), -1])
def test_a_dead_letter_whose_timestamp_is_no_date_is_shown(page, timestamp_ms):
    letters = [letter(1, "not_json", timestamp_ms), letter(2, "no_key")]
    content = page(letters=KeptLetters(letters, {}, 2))
    assert content.count("unreadable") == 1
    assert "2023-11-14 22:13:20.000" in content
