"""The figures: true, bounded, and honest where something is away."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupState, KafkaError, KafkaException
from django.test import Client

from profiles.core.records import Record
from profiles.core.updates import Receipt, Source
from profiles.dynamodb import health
from profiles.kafka import groups, topics
from profiles.kafka.dead_letters import Letter
from profiles.kafka.groups import Group
from profiles.kafka.reader import LogReader
from profiles.kafka.topics import KafkaUnavailable
from profiles.pages import figures
from profiles.pages.figures import (
    FlowReader,
    KeptLetters,
    LettersReader,
    PartitionFigures,
)
from tests.fakes import TOPIC, Answer


@pytest.mark.parametrize(
    ("start", "end", "committed", "lag"),
    [(0, 10, 4, 6), (0, 10, 10, 0), (0, 10, None, 10), (5, 10, None, 5), (5, 10, 2, 5)],
    ids=["behind", "at the end", "nothing yet", "retained only", "truncated"],
)
def test_lag_is_what_the_group_has_still_to_settle(start, end, committed, lag):
    assert PartitionFigures(0, start, end, committed, "").lag == lag


class FakeAdmin:
    """Describes one group."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def describe_consumer_groups(self, groups, request_timeout: float) -> Any:
        return {groups[0]: Answer(self.answer)}


def member(client, *partitions, topic=TOPIC.name):
    places = [SimpleNamespace(topic=topic, partition=p) for p in partitions]
    assignment = SimpleNamespace(topic_partitions=places)
    names = {"client_id": client, "member_id": f"{client}-1"}
    return SimpleNamespace(**names, host="/10.0.0.1", assignment=assignment)


def described(answer):
    admin: Any = FakeAdmin(answer)
    return groups.describe_group(admin, "group", TOPIC.name)


def test_owners_are_told_by_partition():
    members = [member("a", 0, 1), member("b", 2), member("c", 3, topic="other")]
    group = SimpleNamespace(state=ConsumerGroupState.STABLE, members=members)
    assert described(group) == Group(
        "STABLE",
        {0: "a at 10.0.0.1", 1: "a at 10.0.0.1", 2: "b at 10.0.0.1"},
        frozenset({"a-1", "b-1", "c-1"}),
    )


def test_a_stable_group_without_members_is_one_that_is_not_told():
    group = SimpleNamespace(state=ConsumerGroupState.STABLE, members=[])
    assert described(group).owners is None


@pytest.mark.parametrize(
    "answer",
    [
        SimpleNamespace(state=ConsumerGroupState.EMPTY, members=[]),
        KafkaException(KafkaError(KafkaError.GROUP_ID_NOT_FOUND)),
    ],
    ids=["left", "never there"],
)
def test_a_group_without_consumers_owns_nothing(answer):
    assert described(answer) == Group("EMPTY", {})


def test_a_group_that_can_not_be_described_is_kafka_away():
    with pytest.raises(KafkaUnavailable, match="_TRANSPORT"):
        described(KafkaException(KafkaError(KafkaError._TRANSPORT)))


@pytest.fixture
def flow(monkeypatch):
    """A flow reader over a log that a test describes, and its clock."""
    state = SimpleNamespace(
        spans={0: range(0, 10)}, committed={0: 4}, group=Group("STABLE", {0: "a"})
    )
    monkeypatch.setattr(topics, "configured", lambda admin: TOPIC)
    monkeypatch.setattr(groups, "describe_group", lambda *_: state.group)
    monkeypatch.setattr(LogReader, "spans", lambda log: state.spans)
    monkeypatch.setattr(LogReader, "committed", lambda log, store: state.committed)
    reader = FlowReader(None, lambda: "table-1")  # type: ignore[arg-type]
    state.read = lambda: reader.read(None)  # type: ignore[arg-type]
    return state


def test_the_flow_adds_its_partitions_up(flow):
    flow.spans = {0: range(2, 10), 1: range(0, 3)}
    flow.group = Group("STABLE", {0: "a"})
    seen = flow.read()
    assert (seen.retained, seen.lag, seen.consumers) == (11, 9, 1)
    assert [row.owner for row in seen.partitions] == ["a", ""]
    sample = seen.samples[-1]
    assert (sample.accepted, sample.settled) == (13, 4)


def test_samples_are_kept_for_some_minutes(flow, monkeypatch):
    flow.read()
    monkeypatch.setattr(figures, "KEPT_S", 0)
    assert len(flow.read().samples) == 1


def test_a_recreated_topic_begins_a_new_chart(flow, monkeypatch):
    flow.read()
    recreated = topics.Topic(TOPIC.name, "topic-2", TOPIC.partitions)
    monkeypatch.setattr(topics, "configured", lambda admin: recreated)
    assert len(flow.read().samples) == 1


class LettersLog:
    """A dead-letter topic that grows, and remembers how much of it was read."""

    def __init__(self, *_: Any) -> None:
        self.size = 0
        self.read = 0

    def spans(self) -> dict[int, range]:
        return {0: range(self.size)}

    def records(self, spans: dict[int, range]) -> Iterator[Record]:
        for offset in spans[0]:
            self.read += 1
            headers = {
                "code": "not_json",
                "detail": "",
                "topic": TOPIC.name,
                "topic-id": TOPIC.id,
                "partition": "0",
                "offset": str(offset),
                "timestamp-ms": "1",
            }
            ours = [(f"dead-letter.{n}", t.encode()) for n, t in headers.items()]
            source = Source("dead letters", 0)
            yield Record("dlq", source, offset, offset, b"1", b"{", ours)


@pytest.fixture
def kept(monkeypatch):
    """Reads the letters of a log of so many; gives the log and the reader too."""
    log = LettersLog()
    monkeypatch.setattr(topics, "describe", lambda *_: TOPIC)
    monkeypatch.setattr(LettersReader, "log", lambda *_: log)
    reader = LettersReader(None)  # type: ignore[arg-type]

    def read(size: int) -> KeptLetters:
        log.size = size
        return reader.read(None)  # type: ignore[arg-type]

    return SimpleNamespace(read=read, log=log, reader=reader)


def test_of_the_dead_letters_the_newest_are_read_and_all_are_counted(kept):
    seen = kept.read(100_000)
    assert seen.retained == 100_000
    assert kept.log.read == len(seen.letters) == figures.LAST_LETTERS
    assert [letter.receipt.offset for letter in seen.letters[:2]] == [99_999, 99_998]


def test_reading_the_dead_letters_again_reads_what_has_come(kept):
    kept.read(100)
    assert len(kept.read(103).letters) == 103
    assert kept.log.read == 103


def test_however_many_dead_letters_come_few_are_kept_in_memory(kept):
    sizes = []
    for size in range(0, 4 * figures.MOST_LETTERS, figures.LAST_LETTERS):
        kept.read(size)
        sizes.append(len(kept.reader._kept.letters))
    assert max(sizes) <= figures.MOST_LETTERS + figures.LAST_LETTERS
    assert sizes[-1] < max(sizes)


def test_the_dead_letters_of_a_recreated_topic_are_read_anew(kept, monkeypatch):
    kept.read(5)
    recreated = topics.Topic(TOPIC.name, "topic-2", TOPIC.partitions)
    monkeypatch.setattr(topics, "describe", lambda *_: recreated)
    assert len(kept.read(2).letters) == 2


# The page


@pytest.fixture
def page(monkeypatch, observe):
    """Shows the pipeline page with what the three readings give, or raise."""

    def show(**given):
        for name in ("flow", "letters", "table"):
            answer = given.get(name, KafkaUnavailable(f"{name} is away"))

            def read(answer=answer):
                if isinstance(answer, Exception):
                    raise answer
                return answer

            observer = observe(read, KafkaUnavailable)
            where = health if name == "table" else figures
            monkeypatch.setattr(where, name, lambda observer=observer: observer)
        response = Client().get("/pipeline/")
        assert response.status_code == 200
        return " ".join(response.content.decode().split())

    return show


def test_the_page_renders_and_says_so_when_all_is_away(page):
    content = page()
    for name in ("flow", "letters", "table"):
        assert f"{name} is away" in content
    assert content.count(">down<") == 2


def test_the_page_shows_each_partition(page, flow):
    flow.spans = {0: range(0, 1234)}
    content = page(flow=flow.read())
    row = content.partition('<tr data-key="0">')[2].partition("</tr>")[0]
    assert [text for text in row.replace(">", "<").split("<") if text in SHOWN] == SHOWN


SHOWN = ["0", "1234", "4", "1230", "a"]


@pytest.mark.parametrize(
    ("start", "committed", "told"),
    [
        (
            1200,
            {0: 700},
            "Partition 0 begins at 1200, and the group is to go on at 700",
        ),
        (1200, {}, "Partition 0 begins at 1200, and the group is to go on at 0"),
        (1200, {0: 1200}, ""),
        (0, {}, ""),
    ],
    ids=["behind the gap", "nothing committed", "past it", "no gap"],
)
def test_the_page_says_where_the_log_has_lost_what_was_to_be_applied(
    page, flow, start, committed, told
):
    flow.spans, flow.committed = {0: range(start, 1234)}, committed
    content = page(flow=flow.read())
    assert ("gone from the log" in content) is bool(told)
    assert told in content


def test_the_page_says_where_owners_are_not_told(page, flow):
    flow.group = Group("STABLE", None)
    content = page(flow=flow.read())
    assert "does not tell who owns" in content
    assert "not told" in content


def letter(offset, code):
    place = Receipt(Source(TOPIC.id, 0), offset)
    kept = Receipt(Source("dead letters", 0), offset)
    return Letter(place, TOPIC.name, 0, code, "why", kept, 1_700_000_000_000)


def test_the_page_says_how_many_dead_letters_are_misplaced_and_what_that_means(page):
    letters = [letter(offset, "wrong_partition") for offset in range(30)]
    letters += [letter(30, "not_json")]
    redriven = {letters[0].receipt: "a receipt"}
    content = page(letters=KeptLetters(letters, redriven, 500))
    assert "29 of the newest 31 stood outside the patient's partition" in content
    assert "partitioner=murmur2_random" in content


def test_the_page_says_nothing_of_misplaced_dead_letters_where_there_are_none(page):
    letters = [letter(1, "wrong_partition"), letter(2, "not_json")]
    redriven = {letters[0].receipt: "a receipt"}
    content = page(letters=KeptLetters(letters, redriven, 2))
    assert "not_json" in content
    assert "partitioner=" not in content
