"""The upserts: what one attempt against the table comes to."""

from __future__ import annotations

import random
import re
from functools import partial
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse, HeadersDict
from botocore.exceptions import (
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)

from profiles.core import items, serializers
from profiles.core.updates import Incarnation, MergedUpdate, Source
from profiles.dynamodb import attempt as attempts
from profiles.dynamodb import client
from profiles.dynamodb.attempt import Outcome
from profiles.dynamodb.client import StoreRefused, StoreUnavailable
from profiles.dynamodb.window import LEAST, MOST
from profiles.dynamodb.wire import BotocoreWire
from profiles.dynamodb.writer import TableWriter
from tests import fakes
from tests.fakes import OURS, SOURCE, Clock, FakeDynamoDB, refusal, update_at

URL = "http://127.0.0.1:1"


BEFORE = {items.fence_name(SOURCE): {"N": "0"}}


def attempt(client, *updates):
    return TableWriter(client, "patient-profile").apply([*updates], OURS)


@pytest.fixture
def answers(dynamodb):
    """Makes moto's table answer these errors to the next writes; None lets one pass."""
    script: list[tuple[int, str] | None] = []

    class Raw:
        def __init__(self, code: str) -> None:
            self.body = f'{{"__type": "com.amazonaws#{code}", "message": "Secret"}}'

        def stream(self, **_):
            yield self.body.encode()

    def answer(**_):
        if script and (error := script.pop(0)):
            headers: Any = HeadersDict()
            return AWSResponse(URL, error[0], headers, Raw(error[1]))
        return None

    event = "before-send.dynamodb.UpdateItem"
    dynamodb.meta.events.register_first(event, answer)
    yield script
    dynamodb.meta.events.unregister(event, answer)


def stored(client, patient="1"):
    key = {"PatientId": {"S": patient}}
    return client.get_item(TableName="patient-profile", Key=key).get("Item")


def test_an_update_is_written_with_its_moment_and_its_fence(dynamodb):
    outcome = attempt(dynamodb, update_at(5, FirstName="John"))
    assert (outcome.applied, outcome.already, outcome.remaining) == (1, 0, [])
    assert stored(dynamodb) == {
        "PatientId": {"S": "1"},
        "FirstName": {"S": "John"},
        "UpdatedAt": {"S": "2023-11-14T22:13:20.005+00:00"},
        "_fence:topic-1:0": {"N": "5"},
        "_incarnation": {"S": "topic-1 table-1"},
    }


def test_null_removes_and_absent_keeps(dynamodb):
    attempt(dynamodb, update_at(0, FirstName="John", Sex="Female"))
    attempt(dynamodb, update_at(1, Sex=None))
    shown = items.profile(stored(dynamodb))
    assert (shown.get("FirstName"), shown.get("Sex")) == ("John", None)


def test_removing_what_is_not_there_is_fine(dynamodb):
    assert attempt(dynamodb, update_at(0, Sex=None)).applied == 1


def test_an_older_or_equal_offset_changes_nothing(dynamodb):
    attempt(dynamodb, update_at(9, FirstName="new"))
    before = stored(dynamodb)
    for offset in (9, 2):
        outcome = attempt(dynamodb, update_at(offset, Sex="Other"))
        assert (outcome.applied, outcome.already) == (0, 1)
    assert stored(dynamodb) == before


def test_offsets_compare_as_numbers(dynamodb):
    attempt(dynamodb, update_at(9))
    assert attempt(dynamodb, update_at(10)).applied == 1


@pytest.mark.parametrize("code", sorted(client._LATER))
def test_what_may_pass_remains_to_be_tried_again(code):
    client = FakeDynamoDB()
    client.troubles = [None, refusal(code)]
    updates = [update_at(0, "1"), update_at(1, "2"), update_at(2, "3")]
    outcome = attempt(client, *updates)
    assert outcome.remaining == [updates[1]]
    assert (outcome.applied, code in outcome.trouble) == (2, True)


@pytest.mark.parametrize("code", sorted(client._LATER))
def test_what_may_pass_remains_for_a_single_write_too(dynamodb, answers, code):
    answers += [(400, f"{code}Exception")]
    outcome = attempt(dynamodb, update_at(0))
    assert (len(outcome.remaining), code in outcome.trouble) == (1, True)


def test_any_error_of_the_servers_own_remains_to_be_tried_again(dynamodb, answers):
    answers += [(503, "Whatever")]
    assert len(attempt(dynamodb, update_at(0)).remaining) == 1


@pytest.mark.parametrize(
    "code",
    ["AccessDeniedException", "ValidationException", "UnrecognizedClientException"],
)
def test_a_refusal_stops_and_quotes_nothing(dynamodb, answers, code):
    answers += [(400, code)]
    with pytest.raises(StoreRefused, match=code.removesuffix("Exception")) as refused:
        attempt(dynamodb, update_at(0, FirstName="Secret"))
    assert "Secret" not in str(refused.value)
    assert refused.value.__suppress_context__


def test_a_missing_table_names_the_command_that_makes_it(dynamodb):
    with pytest.raises(
        StoreRefused, match=r"other does not exist.*manage.py provision"
    ):
        TableWriter(dynamodb, "other").apply([update_at(0)], OURS)


def test_a_refused_connection_remains_to_be_tried_again(settings, monkeypatch):
    settings.DYNAMODB_ENDPOINT_URL = URL
    monkeypatch.setattr(attempts, "ATTEMPT_S", 60)
    outcome = attempt(client.connect(), update_at(0), update_at(1, "2"))
    assert [update.offset for update in outcome.remaining] == [0, 1]
    assert "EndpointConnectionError" in outcome.trouble


@pytest.mark.parametrize(
    "error", [ReadTimeoutError, ConnectTimeoutError, EndpointConnectionError]
)
def test_a_connection_that_fails_remains_to_be_tried_again(error):
    client = FakeDynamoDB()
    client.troubles = [error(endpoint_url=URL)]
    assert len(attempt(client, update_at(0)).remaining) == 1


@pytest.mark.parametrize(
    "error", [ReadTimeoutError, ConnectTimeoutError, EndpointConnectionError]
)
def test_a_call_of_many_that_fails_remains_to_be_tried_again(error):
    client = FakeDynamoDB()
    client.troubles = [error(endpoint_url=URL)]
    updates = [update_at(0, "1"), update_at(1, "2")]
    outcome = attempt(client, *updates)
    assert (outcome.applied, outcome.remaining) == (0, updates)


def test_a_timeout_is_no_outcome_and_the_refusal_after_it_means_applied():
    client = FakeDynamoDB()
    client.lost_answers = [None, ReadTimeoutError(endpoint_url=URL)]
    first = attempt(client, update_at(0, FirstName="John"))
    second = attempt(client, *first.remaining)
    assert (first.applied, first.already, second.already) == (0, 0, 1)
    assert second.remaining == []


def test_missing_credentials_stop_with_what_to_do():
    client = FakeDynamoDB()
    client.troubles = [NoCredentialsError()]
    with pytest.raises(StoreRefused, match="credentials: configure"):
        attempt(client, update_at(0))


@pytest.mark.parametrize("answer", [{}, {"Attributes": {}}, {"Attributes": BEFORE}])
def test_an_answer_that_does_not_show_the_fence_is_no_write(
    dynamodb, monkeypatch, answer
):
    """moto knows no statements, so `update_item` decides."""
    monkeypatch.setattr(dynamodb, "update_item", lambda **_: answer)
    outcome = attempt(dynamodb, update_at(1))
    assert (outcome.applied, len(outcome.remaining)) == (0, 1)
    assert "it does not show the fence" in outcome.trouble


class Shuffling:
    """A wire that takes all it is given, and answers in any order."""

    def __init__(self, client, draw):
        self._client, self._draw = client, draw
        self.under_way, self.most = {}, 0

    def run(self, next_call):
        while True:
            while (call := next_call()) is not None:
                self._start(*call)
            if not self.under_way:
                return
            number = self._draw(sorted(self.under_way))
            call, statements = self.under_way.pop(number)
            yield call, [*BotocoreWire(self._client).run(iter_once(statements))][0][1]

    def _start(self, call, statements):
        assert len(statements) <= attempts.STATEMENTS
        busy = {
            u.patient_id for other, _ in self.under_way.values() for u in other.updates
        }
        assert busy.isdisjoint(update.patient_id for update in call.updates)
        self.under_way[max(self.under_way, default=0) + 1] = call, statements
        self.most = max(self.most, len(self.under_way))


def iter_once(statements):
    left = [(None, statements)]
    return lambda: left.pop() if left else None


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_has_two_writes_under_way_however_many_there_are(seed):
    """Two partitions, patients in both; items that are new, known, and of a former topic."""
    client: Any = FakeDynamoDB()
    write(client, [str(each) for each in range(0, 900, 3)], 1)
    write(client, [str(each) for each in range(1, 900, 3)], 1, NEXT_TOPIC)
    shuffling = Shuffling(client, random.Random(seed).choice)
    table = TableWriter(client, "t", shuffling)
    other = Source("topic-1", 1)
    updates = [update_at(9, str(each), FirstName="A") for each in range(900)]
    updates += [
        MergedUpdate(str(each), {"Sex": "Other"}, other, 9, 0)
        for each in range(0, 900, 2)
    ]
    outcome, applied = table.apply(updates, OURS, [NEXT_TOPIC]), 0
    while outcome.remaining:
        applied += outcome.applied
        outcome = table.apply(outcome.remaining, OURS, [NEXT_TOPIC])
    assert applied + outcome.applied == len(updates)
    assert shuffling.most >= LEAST
    for each in range(900):
        profile = items.profile(client.items[str(each)])
        assert profile["FirstName"] == "A"
        assert profile.get("Sex") == (None if each % 2 else "Other")


def test_a_table_that_throttles_has_half_as_many_calls_under_way():
    client: Any = FakeDynamoDB()
    shuffling = Shuffling(client, min)
    table = TableWriter(client, "t", shuffling)
    table._window._size = MOST
    updates = [update_at(1, str(each)) for each in range(25 * MOST)]
    table.apply(updates, OURS)
    assert shuffling.most == MOST
    table._window._size = MOST
    client.troubles = [refusal("ThrottlingException")]
    table.apply(updates[:2], OURS)
    shuffling.most = 0
    table.apply(updates, OURS)
    assert shuffling.most < MOST * 3 / 4


def test_an_attempt_is_bounded_and_leaves_the_rest_in_order(monkeypatch):
    clock, client = Clock(), FakeDynamoDB()
    monkeypatch.setattr(attempts, "time", clock)
    monkeypatch.setattr(attempts, "STATEMENTS", 2)
    write = client.batch_execute_statement

    def slow(**call):
        clock.sleep(0.4)
        return write(**call)

    attempt(client, *[update_at(i, str(i)) for i in range(10)])
    monkeypatch.setattr(client, "batch_execute_statement", slow)
    outcome = attempt(client, *[update_at(10 + i, str(i)) for i in range(10)])
    assert outcome.applied == 6
    assert [update.offset for update in outcome.remaining] == [*range(16, 20)]


def test_one_batch_creates_updates_and_leaves_alone(monkeypatch):
    client = FakeDynamoDB()
    attempt(client, update_at(5, "old", FirstName="A"), update_at(5, "done"))
    outcome = attempt(
        client,
        update_at(6, "old", FirstName="B"),
        update_at(6, "new", FirstName="C"),
        update_at(5, "done", FirstName="D"),
    )
    assert (outcome.applied, outcome.created, outcome.already) == (2, 1, 1)
    names = {who: items.profile(item) for who, item in client.items.items()}
    assert [names[who].get("FirstName") for who in ("old", "new", "done")] == [
        "B",
        "C",
        None,
    ]


def test_an_item_that_another_writer_makes_meanwhile_still_gets_the_update():
    class Racing(FakeDynamoDB):
        def _insert(self, text, values):
            super()._insert(
                text, [values[0], {"S": "theirs"}, *values[2:-1], {"N": "1"}]
            )
            return super()._insert(text, values)

    client = Racing()
    updates = [update_at(7, who, FirstName="ours") for who in "ab"]
    outcome = attempt(client, *updates)
    assert (outcome.applied, outcome.already) == (2, 0)
    assert {items.profile(i)["FirstName"] for i in client.items.values()} == {"ours"}


def test_a_patient_has_one_write_at_a_time_and_the_rest_waits():
    client = FakeDynamoDB()
    first, second = update_at(1, FirstName="A"), update_at(2, FirstName="B")
    outcome = attempt(client, first, update_at(3, "2"), second)
    assert outcome.remaining == [second]
    assert attempt(client, *outcome.remaining).applied == 1


BELOW = {
    items.KEY: {"S": "1"},
    items.MARK: {"S": str(OURS)},
    items.fence_name(SOURCE): {"N": "0"},
}


@pytest.mark.parametrize("item", [{}, BELOW], ids=["not shown", "ours, and below"])
def test_a_refusal_that_the_fence_does_not_explain_stops(item):
    client = FakeDynamoDB()
    client.troubles = [refusal("ConditionalCheckFailedException", Item=item)] * 4
    with pytest.raises(StoreRefused, match="evaluates the condition differently"):
        attempt(client, update_at(1))


DAMAGED_FENCES = [{"S": "Secret"}, {"B": b"7"}, {"N": "1000.5"}, {"NULL": True}]


@pytest.mark.parametrize("fence", DAMAGED_FENCES, ids=str)
def test_a_damaged_fence_stops_with_the_item_to_be_mended(fence):
    client, name = FakeDynamoDB(), items.fence_name(Source("topic-1", 0))
    client.troubles = [refusal("ConditionalCheckFailedException", Item={name: fence})]
    with pytest.raises(StoreRefused, match=f"its {name} is no offset") as refused:
        attempt(client, update_at(17, "p-1", FirstName="Secret"))
    assert_names_the_item(refused.value)
    assert "engine" not in str(refused.value)


@pytest.mark.parametrize("fence", [*DAMAGED_FENCES, {"S": "1"}], ids=str)
def test_a_batch_does_not_write_over_a_damaged_fence(fence):
    """Nobody can tell whether its item includes the update."""
    client, name = FakeDynamoDB(), items.fence_name(Source("topic-1", 0))
    attempt(client, update_at(1, "p-1", FirstName="John"), update_at(2, "2"))
    client.items["p-1"][name] = fence
    before = dict(client.items["p-1"])
    with pytest.raises(StoreRefused, match=f"its {name} is no offset") as refused:
        attempt(client, update_at(17, "p-1", FirstName="Secret"), update_at(18, "2"))
    assert_names_the_item(refused.value)
    assert client.items["p-1"] == before


def assert_names_the_item(error: StoreRefused) -> None:
    assert "patient p-1 in table patient-profile" in str(error)
    assert "partition 0 at offset 17" in str(error)
    assert "docs/operations.md" in str(error)
    assert "Secret" not in str(error)
    assert error.__suppress_context__


class OneItemFull(FakeDynamoDB):
    """The item of patient p-1 can't grow; a call is refused in part, or as a whole."""

    def __init__(self, whole: bool, message: str) -> None:
        super().__init__()
        self.whole = whole
        self.error = refusal("ValidationException")
        self.error.response["Error"]["Message"] = message

    def batch_execute_statement(self, Statements):
        if self.whole and any(
            {"S": "p-1"} in each["Parameters"] for each in Statements
        ):
            raise self.error
        return super().batch_execute_statement(Statements)

    def _answer(self, statement):
        if {"S": "p-1"} in statement["Parameters"]:
            return {
                "Error": {**self.error.response["Error"], "Code": "ValidationError"}
            }
        return super()._answer(statement)

    def update_item(self, **call):
        if call["Key"] == {"PatientId": {"S": "p-1"}}:
            raise self.error
        super().update_item(**call)


@pytest.mark.parametrize("whole", [False, True], ids=["in part", "as a whole"])
@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("Item size to update has exceeded the maximum, Secret", "larger than the 400"),
        ("Secret", "DynamoDB answers ValidationException"),
    ],
)
def test_of_a_batch_that_is_invalid_the_one_item_is_named(whole, message, why):
    client: Any = OneItemFull(whole, message)
    updates = [update_at(15, "before"), update_at(17, "p-1"), update_at(18, "after")]
    with pytest.raises(StoreRefused, match=why) as refused:
        attempt(client, *updates)
    assert_names_the_item(refused.value)


@pytest.mark.parametrize("patients", [["p-1"], ["p-1", "2"]], ids=["one", "two"])
@pytest.mark.parametrize("whole", [False, True], ids=["in part", "as a whole"])
def test_an_item_that_can_not_be_adopted_is_named(monkeypatch, whole, patients):
    """It is refused for its mark first, and never comes to be too large."""
    client: Any = OneItemFull(whole, "Item size to update has exceeded the maximum")
    client.items = {name: {"PatientId": {"S": name}} for name in patients}
    monkeypatch.setattr(
        client, "update_item", partial(FakeDynamoDB.update_item, client)
    )
    with pytest.raises(StoreRefused, match="larger than the 400 KB") as refused:
        attempt(client, *[update_at(17, name) for name in patients])
    assert_names_the_item(refused.value)


def test_a_damaged_mark_stops_with_the_item_to_be_mended():
    client = FakeDynamoDB()
    client.items = {"p-1": {"PatientId": {"S": "p-1"}, items.MARK: {"N": "1"}}}
    with pytest.raises(StoreRefused, match="its _incarnation is no text") as refused:
        attempt(client, update_at(17, "p-1"))
    assert_names_the_item(refused.value)


NEXT_TOPIC = Incarnation("topic-2", OURS.table_id)
NEXT_TABLE = Incarnation(OURS.topic_id, "table-2")
PAIRS = pytest.mark.parametrize(
    "patients", [["1"], ["1", "2"]], ids=["one", "in a batch"]
)


def write(client, patients, offset, ours=OURS, former=(), **fields):
    updates = [update_at(offset, patient, **fields) for patient in patients]
    return TableWriter(client, "t").apply(updates, ours, former)


def marks(client):
    return {str(items.held_by(item)) for item in client.items.values()}


@PAIRS
def test_an_item_that_a_writer_of_ours_adopts_meanwhile_still_gets_the_update(patients):
    """It was seen with the mark of a former topic, and has ours when it is adopted."""

    class Adopting(FakeDynamoDB):
        def _update(self, text, values):
            answer = super()._update(text, values)
            for item in self.items.values():
                if items.held_by(item) == OURS:
                    item[items.MARK] = {"S": str(NEXT_TOPIC)}
            return answer

    client: Any = Adopting()
    client.items = {
        patient: {"PatientId": {"S": patient}, items.MARK: {"S": str(OURS)}}
        for patient in patients
    }
    outcome = write(client, patients, 5, NEXT_TOPIC, [OURS], FirstName="A")
    assert outcome.applied == len(patients)
    assert {i["FirstName"]["S"] for i in client.items.values()} == {"A"}


@PAIRS
def test_an_item_of_an_earlier_release_is_marked_with_its_next_update(patients):
    client = FakeDynamoDB()
    write(client, patients, 4, FirstName="A")
    for item in client.items.values():
        del item[items.MARK]
    assert write(client, patients, 4, FirstName="B").already == len(patients)
    assert write(client, patients, 5, Sex="Other").applied == len(patients)
    assert marks(client) == {str(OURS)}


@PAIRS
def test_an_item_of_an_unknown_incarnation_is_left_and_told(patients):
    client = FakeDynamoDB()
    write(client, patients, 4, NEXT_TOPIC)
    outcome = write(client, patients, 5)
    assert (outcome.applied, len(outcome.remaining)) == (0, len(patients))
    assert outcome.unknown == {NEXT_TOPIC}
    assert marks(client) == {str(NEXT_TOPIC)}


def test_a_single_write_leaves_an_item_of_an_unknown_incarnation(dynamodb):
    """moto takes no statement, so each write is a single one."""
    TableWriter(dynamodb, "patient-profile").apply(
        [update_at(4, FirstName="A")], NEXT_TOPIC
    )
    outcome = attempt(dynamodb, update_at(5, FirstName="B"))
    assert (outcome.applied, outcome.unknown) == (0, {NEXT_TOPIC})
    assert stored(dynamodb)["FirstName"] == {"S": "A"}


@PAIRS
def test_a_former_topics_item_is_adopted_under_its_fence(patients):
    client = FakeDynamoDB()
    write(client, patients, 4, FirstName="A")
    assert write(client, patients, 4, NEXT_TOPIC, [OURS]).already == len(patients)
    assert marks(client) == {str(OURS)}
    assert write(client, patients, 5, NEXT_TOPIC, [OURS]).applied == len(patients)
    assert marks(client) == {str(NEXT_TOPIC)}


def test_an_item_whose_fence_was_moved_meanwhile_is_not_adopted():
    """By a late write, between the look at the item and its adoption."""
    client = FakeDynamoDB()
    write(client, ["1"], 4, FirstName="A")
    late = items.adopt_statement("t", update_at(4, FirstName="B"), NEXT_TOPIC, OURS)
    (answer,) = client.batch_execute_statement(Statements=[late])["Responses"]
    assert answer["Error"]["Code"] == "ConditionalCheckFailed"
    assert marks(client) == {str(OURS)}


@PAIRS
def test_a_former_tables_item_is_adopted_whatever_its_fence_says(patients):
    client = FakeDynamoDB()
    write(client, patients, 4, FirstName="A")
    outcome = write(client, patients, 1, NEXT_TABLE, [OURS], Sex="Other")
    assert (outcome.applied, outcome.already) == (len(patients), 0)
    for item in client.items.values():
        assert item[items.fence_name(SOURCE)] == {"N": "1"}
        assert {"FirstName", "Sex"} <= items.profile(item).keys()
    assert write(client, patients, 1, NEXT_TABLE).already == len(patients)
    assert write(client, patients, 5, OURS, Sex=None).unknown == {NEXT_TABLE}


def test_a_redelivered_batch_takes_one_call(monkeypatch):
    client: Any = FakeDynamoDB()
    write(client, "12", 4)
    said = listened(monkeypatch, client)
    assert write(client, "12", 4).already == 2
    assert said == ["UPDATE"]


def test_an_engine_that_shows_no_refused_item_is_asked_one_by_one(monkeypatch):
    client: Any = FakeDynamoDB()
    run = client.batch_execute_statement

    def mute(Statements):
        answer = run(Statements)
        for response in answer["Responses"]:
            response.get("Error", {}).pop("Item", None)
        return answer

    write(client, "12", 4)
    write(client, "3", 4, NEXT_TOPIC)
    monkeypatch.setattr(client, "batch_execute_statement", mute)
    assert write(client, "12", 4).already == 2
    assert write(client, "1234", 5, former=[NEXT_TOPIC]).applied == 4
    assert marks(client) == {str(OURS)}


def listened(monkeypatch, client):
    """The first word of each batch's first statement, from now on."""
    said: list[str] = []
    run = client.batch_execute_statement

    def listening(Statements):
        said.append(Statements[0]["Statement"].split()[0])
        return run(Statements)

    monkeypatch.setattr(client, "batch_execute_statement", listening)
    return said


def test_after_a_batch_of_new_patients_creating_comes_first(monkeypatch):
    client: Any = FakeDynamoDB()
    said = listened(monkeypatch, client)
    table = TableWriter(client, "t")
    for start in (0, 2, 0):
        table.apply(
            [update_at(start, str(start)), update_at(start, str(start + 1))], OURS
        )
    table.apply([update_at(9, "0"), update_at(9, "1")], OURS)
    table.apply([update_at(10, "0"), update_at(10, "1")], OURS)
    assert said == [
        *("UPDATE", "INSERT"),  # new, and not known to be
        "INSERT",  # new, as expected
        *("INSERT", "UPDATE"),  # known, though new ones were expected
        "UPDATE",  # known, as expected
        "UPDATE",
    ]


@pytest.mark.parametrize("known", [0, 9, 20], ids=["none", "half", "all"])
def test_however_slow_the_calls_every_update_gets_through(monkeypatch, known):
    """A batch is refused what is new, then what is known: one call an attempt."""
    clock, client = Clock(), FakeDynamoDB()
    updates = [update_at(offset, patient=str(offset)) for offset in range(20)]
    TableWriter(client, "t").apply(updates[:known], OURS)  # type: ignore[arg-type]
    monkeypatch.setattr(attempts, "time", clock)
    for name in ("update_item", "batch_execute_statement"):
        monkeypatch.setattr(client, name, slowly(clock, getattr(client, name)))
    table: Any = TableWriter(client, "t")  # type: ignore[arg-type]
    outcome, number = Outcome(remaining=updates), 0
    while outcome.remaining:
        outcome, number = table.apply(outcome.remaining, OURS), number + 1
        assert number < 5
    assert len(client.items) == 20


def slowly(clock, call):
    def slow(**arguments):
        clock.sleep(3)
        return call(**arguments)

    return slow


def test_a_statement_of_all_fields_is_far_below_dynamodbs_limit():
    fields = dict.fromkeys(serializers.PatientProfile().fields, "x")
    fields.pop("PatientId")
    source = Source("A" * 22, 9_999)
    update = MergedUpdate("1", fields, source, 10**18, 0)
    for statement in (
        items.update_statement("t" * 255, update, OURS),
        items.insert_statement("t" * 255, update, OURS),
        items.adopt_statement("t" * 255, update, OURS, OURS),
    ):
        assert len(statement["Statement"]) < 8192 / 4


@pytest.mark.parametrize("start", ['"_incarnation"=', '"_incarnation" IS', "NOT "])
def test_an_engine_that_reads_a_condition_otherwise_is_found_out(monkeypatch, start):
    client: Any = FakeDynamoDB()
    TableWriter(client, "t").prove()
    assert client.items == {}
    holds = fakes._holds

    def blind(item, conditions, values):
        """Leaves each such term out, with its value."""
        left, kept, known = [*values], [], []
        for term in re.split(fakes.BETWEEN_TERMS, conditions):
            given = [left.pop(0)] if "?" in term else []
            if not term.startswith(start):
                kept.append(term)
                known += given
        return holds(item, " AND ".join(kept), known)

    monkeypatch.setattr(fakes, "_holds", blind)
    with pytest.raises(StoreRefused, match="evaluates the condition differently"):
        TableWriter(client, "t").prove()
    assert client.items == {}


@pytest.mark.parametrize("name", [items.MARK, "_fence:self-test:0"])
def test_so_is_one_that_reads_that_of_a_single_write_otherwise(name):
    class Blind(FakeDynamoDB):
        def _execute(self, call):
            for item in self.items.values():
                if name == items.MARK:
                    item[name] = call["ExpressionAttributeValues"][":m"]
                else:
                    item.pop(name, None)
            super()._execute(call)

    client: Any = Blind()
    with pytest.raises(StoreRefused, match="evaluates the condition differently"):
        TableWriter(client, "t").prove()


def test_a_proof_that_fails_half_way_leaves_nothing():
    client: Any = FakeDynamoDB()
    client.troubles = [None, None, None, ReadTimeoutError(endpoint_url="")]
    with pytest.raises(StoreUnavailable):
        TableWriter(client, "t").prove()
    assert client.items == {}


def test_an_outcome_shows_no_value():
    client = FakeDynamoDB()
    client.troubles = [refusal("ThrottlingException")]
    assert "Secret" not in repr(attempt(client, update_at(0, FirstName="Secret")))


def test_a_table_is_identified_by_its_id_or_else_by_its_creation(dynamodb):
    made_at = dynamodb.describe_table(TableName="patient-profile")["Table"][
        "CreationDateTime"
    ]
    assert (
        TableWriter(dynamodb, "patient-profile").identity()
        == f"created-{int(made_at.timestamp())}"
    )
    client: Any = FakeDynamoDB()
    told = {"CreationDateTime": made_at, "TableId": "a-b-c"}
    client.describe_table = lambda TableName: {"Table": told}
    assert TableWriter(client, "patient-profile").identity() == "a-b-c"


def test_a_missing_table_has_no_identity(dynamodb):
    with pytest.raises(StoreRefused, match="manage.py provision"):
        TableWriter(dynamodb, "other").identity()


def test_a_table_that_is_away_has_no_identity_yet(settings):
    settings.DYNAMODB_ENDPOINT_URL = URL
    with pytest.raises(StoreUnavailable, match="EndpointConnectionError"):
        TableWriter(client.connect(), "patient-profile").identity()
