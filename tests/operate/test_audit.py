"""The audit on a log and a table in plain Python: healthy, behind, and damaged."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from itertools import count, islice
from typing import Any

import pytest

from profiles.core import serializers
from profiles.core.items import MARK, fence_name, iso_timestamp
from profiles.core.records import InvalidRecord, Record, partition_of
from profiles.core.updates import Incarnation, Receipt, Source
from profiles.management.commands import audit_profiles
from profiles.management.commands.audit_profiles import as_json, as_text
from profiles.operate.audit import Report, Share, audit
from profiles.operate.histories import Finding
from tests.fakes import NOW_MS, OURS, TOPIC

F = Finding
EARLIER = Source("an earlier topic", 0)


class World:
    """Two of a topic's partitions, a table, and a consumer that runs step by step."""

    def __init__(self) -> None:
        self.log: dict[int, list[Record]] = {0: [], 1: []}
        self.low = {0: 0, 1: 0}
        self.applied = {0: 0, 1: 0}
        self.done = {0: 0, 1: 0}
        self.table: dict[str, dict[str, Any]] = {}
        self.letters: set[Receipt] = set()

    def post(self, patient: str, partition: int = 0, **fields: Any) -> Receipt:
        body = json.dumps({"PatientId": patient, **fields})
        return self.produce(body.encode(), patient.encode(), partition)

    def produce(self, value: bytes | None, key: bytes, partition: int = 0) -> Receipt:
        log = self.log[partition]
        receipt = Receipt(Source(TOPIC.id, partition), len(log))
        moment = NOW_MS + sum(map(len, self.log.values()))
        log.append(
            Record(TOPIC.name, receipt.source, receipt.offset, moment, key, value)
        )
        return receipt

    def apply(self, partition: int = 0) -> None:
        """Apply the next record, if there is one, without a commit."""
        offset = self.applied[partition]
        if offset < len(self.log[partition]):
            self.applied[partition] += 1
            self._apply(self.log[partition][offset])

    def _apply(self, record: Record) -> None:
        try:
            update = serializers.decode(record, TOPIC.partitions)
        except InvalidRecord:
            self.letters.add(Receipt(record.source, record.offset))
            return
        self._merge(record, update.patient_id, update.fields)

    def apply_as_earlier_releases(self, partition: int) -> None:
        """Apply the next record without a check of its partition."""
        record = self.log[partition][self.applied[partition]]
        self.applied[partition] += 1
        body = json.loads(record.value or b"")
        self._merge(record, body.pop("PatientId"), body)

    def _merge(
        self, record: Record, patient_id: str, fields: Mapping[str, str | None]
    ) -> None:
        item = self.table.setdefault(patient_id, {})
        item["PatientId"] = {"S": patient_id}
        item[MARK] = {"S": str(OURS)}
        item["UpdatedAt"] = {"S": iso_timestamp(record.timestamp_ms)}
        item[fence_name(record.source)] = {"N": str(record.offset)}
        for name, value in fields.items():
            item[name] = {"S": value}
            if value is None:
                del item[name]

    def commit(self) -> None:
        self.done = {**self.applied}

    def catch_up(self) -> World:
        for partition, log in self.log.items():
            for _ in log[self.applied[partition] :]:
                self.apply(partition)
        self.commit()
        return self

    # What the audit reads

    def committed(self) -> dict[int, int]:
        return {**self.done}

    def items(self) -> Iterator[dict[str, Any]]:
        for patient in sorted(self.table):
            yield {**self.table[patient]}

    def spans(self) -> dict[int, range]:
        return {p: range(self.low[p], len(log)) for p, log in self.log.items()}

    def dead_letters(self) -> set[Receipt]:
        return {*self.letters}

    def records(self, spans: Mapping[int, range]) -> Iterator[Record]:
        for partition, span in spans.items():
            yield from self.log[partition][span.start : span.stop]


def report_of(world: World, share: Share | None = None) -> Report:
    return audit(world, OURS, TOPIC.partitions, share or Share())


def found(world: World) -> dict[Finding, list[str]]:
    """PatientIds, and receipts of invalid records, by finding."""
    return {
        finding: [*tally.patients, *map(str, tally.receipts)]
        for finding, tally in report_of(world).tallies.items()
        if tally.patients or tally.receipts
    }


@pytest.fixture
def world() -> World:
    """Two patients, all records applied and committed, no damage."""
    world = World()
    world.post("1", FirstName="Ann", LastName="Lee", Phone="1")
    world.post("f", FirstName="Bob")
    world.post("1", FirstName="Anna", Phone=None)
    world.post("1", LastName="Li")
    return world.catch_up()


FENCE = fence_name(Source(TOPIC.id, 0))


def test_an_item_that_equals_the_fold_of_its_records_is_in_order(world):
    assert found(world) == {F.IN_ORDER: ["1", "f"]}
    assert not report_of(world).damaged


# A system that runs


def test_records_that_are_not_committed_are_behind(world):
    world.post("1", Phone="2")
    world.post("n", Phone="2")
    assert found(world) == {F.BEHIND: ["1", "n"], F.IN_ORDER: ["f"]}
    assert report_of(world).tallies[F.BEHIND].records == 2
    assert not report_of(world).damaged


def test_an_update_that_is_applied_and_not_committed_is_in_order(world):
    world.post("1", Phone="2")
    world.apply()
    assert found(world) == {F.IN_ORDER: ["1", "f"]}


class Running(World):
    """Updates, applies and commits between and within the readings."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.choose = random.Random(seed)

    def go_on(self) -> None:
        for _ in range(self.choose.randrange(8)):
            partition = self.choose.randrange(2)
            act = (self.update, self.apply)
            actions = (*act, *act, self.garbage, self.stray)
            self.choose.choice(actions)(partition)
            if self.choose.random() < 0.3:
                self.commit()

    def update(self, partition: int) -> None:
        name = self.choose.choice(["FirstName", "LastName", "Phone"])
        value = self.choose.choice(["a", "b", None])
        patient = self.choose.choice(["1fnq", "4lx"][partition])
        self.post(patient, partition, **{name: value})

    def stray(self, partition: int) -> None:
        """An update in the other partition than its patient's."""
        self.post(self.choose.choice(["4lx", "1fnq"][partition]), partition)

    def garbage(self, partition: int) -> None:
        self.produce(b"[", b"1", partition)

    def committed(self) -> dict[int, int]:
        read = super().committed()
        self.go_on()
        return read

    def spans(self) -> dict[int, range]:
        read = super().spans()
        self.go_on()
        return read

    def dead_letters(self) -> set[Receipt]:
        read = super().dead_letters()
        self.go_on()
        return read

    def items(self) -> Iterator[dict[str, Any]]:
        for patient in [*self.table]:
            yield {**self.table[patient]}
            self.go_on()


@pytest.mark.parametrize("seed", range(200))
def test_a_running_system_is_never_called_damaged(seed):
    world = Running(seed)
    for _ in range(20):
        world.go_on()
    report = report_of(world)
    assert not report.damaged
    assert not report.tallies[F.NOT_JUDGED].patients


FORMER = {"S": str(Incarnation(TOPIC.id, "a former table"))}


@pytest.mark.parametrize("seed", range(50))
def test_a_restored_table_is_behind_until_it_is_filled_again(seed):
    """Its items show values past their fences, or lack some after a late write."""
    choose = random.Random(seed)
    world = World()
    numbers = map(str, count())
    at_home = (p for p in numbers if partition_of(p, TOPIC.partitions) == 0)
    patients = [*islice(at_home, 4)]
    for _ in range(30):
        name = choose.choice(["FirstName", "LastName", "Phone"])
        fields: dict[str, Any] = {name: choose.choice(["a", "b", None])}
        world.post(choose.choice(patients), **fields)
    world.catch_up()
    for item in world.table.values():
        item[MARK] = FORMER
        lacking = choose.choice([*item])
        if lacking.endswith("Name"):
            del item[lacking]
    world.applied = {0: 0, 1: 0}
    world.commit()
    for _ in world.log[0]:
        assert not report_of(world).damaged
        world.apply()
        if choose.random() < 0.3:
            world.commit()
    world.commit()
    assert [*found(world)] == [F.IN_ORDER]


def test_an_item_that_was_not_filled_again_is_lost(world):
    world.table["1"][MARK] = FORMER
    assert found(world)[F.LOST] == ["1"]


# Damage


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FirstName", "Ann"),
        ("FirstName", None),
        ("Phone", "1"),
        ("UpdatedAt", iso_timestamp(NOW_MS)),
    ],
    ids=["overwritten", "absent", "removed", "time"],
)
def test_an_earlier_value_is_stale(world, name, value):
    world.table["1"][name] = {"S": value}
    if value is None:
        del world.table["1"][name]
    assert found(world) == {F.STALE: ["1"], F.IN_ORDER: ["f"]}
    assert report_of(world).damaged == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FirstName", {"S": "Eve"}),
        ("Email", {"S": "eve@example.org"}),
        ("UpdatedAt", {"S": "yesterday"}),
        ("Shoe", {"S": "44"}),
        ("Sex", {"BOOL": True}),
    ],
    ids=["other", "never set", "time", "undeclared", "no string"],
)
def test_a_value_that_the_history_never_had_is_diverged(world, name, value):
    world.table["1"][name] = value
    assert found(world) == {F.DIVERGED: ["1"], F.IN_ORDER: ["f"]}


def test_a_deleted_item_is_lost(world):
    del world.table["1"]
    assert found(world) == {F.LOST: ["1"], F.IN_ORDER: ["f"]}
    assert report_of(world).tallies[F.LOST].records == 3


def test_an_update_that_was_committed_and_not_applied_is_lost(world):
    world.post("1", Phone="2")
    world.applied[0] += 1
    world.commit()
    assert found(world) == {F.LOST: ["1"], F.IN_ORDER: ["f"]}


def test_a_restored_item_lacks_later_records_and_is_lost(world):
    before = {**world.table["1"]}
    world.post("1", Phone="2")
    world.catch_up()
    world.table["1"] = before
    assert found(world) == {F.LOST: ["1"], F.IN_ORDER: ["f"]}


def test_an_update_left_out_before_the_fence_is_stale(world):
    world.post("1", Phone="2")
    world.applied[0] += 1
    world.post("1", Email="a@example.org")
    world.catch_up()
    assert found(world) == {F.STALE: ["1"], F.IN_ORDER: ["f"]}


@pytest.mark.parametrize("fence", ["4", "99", "1", "-1", "1.5"])
def test_a_fence_that_no_record_of_the_patient_explains_is_unknown(world, fence):
    world.table["1"][FENCE] = {"N": fence}
    assert "1" in found(world)[F.UNKNOWN]


@pytest.mark.parametrize(
    "name",
    [fence_name(Source(TOPIC.id, 1)), fence_name(Source(TOPIC.id, 7)), "_fence:x:y"],
)
def test_a_fence_of_a_partition_without_the_patient_is_unknown(world, name):
    world.table["1"][name] = {"N": "0"}
    assert found(world)[F.UNKNOWN] == ["1"]


def test_an_item_without_a_fence_is_unknown(world):
    world.table["9"] = {"PatientId": {"S": "9"}, "FirstName": {"S": "Eve"}}
    assert found(world) == {F.UNKNOWN: ["9"], F.IN_ORDER: ["1", "f"]}


def test_an_item_whose_fence_was_removed_is_unknown_and_nothing_else(world):
    del world.table["1"][FENCE]
    assert found(world) == {F.UNKNOWN: ["1"], F.IN_ORDER: ["f"]}


def test_an_item_without_a_record_is_unknown(world):
    world.table["9"] = {**world.table["1"], "PatientId": {"S": "9"}}
    assert F.UNKNOWN in found(world)
    assert "9" in found(world)[F.UNKNOWN]


# Dead letters


def test_an_invalid_record_is_dead_lettered(world):
    receipt = world.produce(b"[", b"1")
    world.catch_up()
    assert found(world) == {F.DEAD_LETTERED: [str(receipt)], F.IN_ORDER: ["1", "f"]}
    assert not report_of(world).damaged


def test_an_invalid_record_that_was_committed_and_is_no_dead_letter_is_lost(world):
    receipt = world.produce(b"[", b"1")
    world.catch_up()
    world.letters.clear()
    assert found(world) == {F.LOST: [str(receipt)], F.IN_ORDER: ["1", "f"]}
    assert report_of(world).damaged == 1


def test_an_invalid_record_that_is_not_committed_is_behind(world):
    receipt = world.produce(b"[", b"1")
    assert found(world) == {F.BEHIND: [str(receipt)], F.IN_ORDER: ["1", "f"]}


@pytest.mark.parametrize("applied", [True, False], ids=["rebuilt", "left out"])
@pytest.mark.parametrize("last", [True, False], ids=["last", "amid"])
def test_an_update_that_was_a_dead_letter_once_may_be_in_the_item_or_not(
    world, applied, last
):
    receipt = world.post("1", Phone="2")
    world.applied[0] += not applied
    if not last:
        world.post("1", LastName="Lu")
    world.catch_up()
    world.letters.add(receipt)
    assert found(world) == {F.DEAD_LETTERED: [str(receipt)], F.IN_ORDER: ["1", "f"]}


# What can't be judged whole


def test_a_history_that_begins_before_the_log_is_not_judged(world):
    world.low[0] = 2
    assert found(world) == {F.NOT_JUDGED: ["1", "f"]}


def test_an_item_at_rest_before_the_log_is_not_judged_and_its_next_update_is(world):
    world.low[0] = 4
    world.post("1", Phone="2")
    world.post("f", Phone="2")
    world.apply()
    assert found(world) == {F.NOT_JUDGED: ["1", "f"], F.BEHIND: ["f"]}
    world.applied[0] = 6
    world.commit()
    assert found(world)[F.LOST] == ["f"]


def test_attributes_that_the_retained_records_hold_are_judged(world):
    world.low[0] = 2
    world.table["1"]["LastName"] = {"S": "Eve"}
    assert found(world) == {F.NOT_JUDGED: ["1", "f"], F.DIVERGED: ["1"]}


def test_an_item_of_an_earlier_topic_is_not_judged_and_not_unknown(world):
    old = {"PatientId": {"S": "9"}, "FirstName": {"S": "Old"}}
    world.table["9"] = {**old, fence_name(EARLIER): {"N": "5000"}}
    assert found(world) == {F.IN_ORDER: ["1", "f"], F.NOT_JUDGED: ["9"]}


def test_an_item_of_two_topics_is_judged_by_the_records_of_this_one(world):
    world.table["1"][fence_name(EARLIER)] = {"N": "5000"}
    world.table["1"]["Email"] = {"S": "of@before.example"}
    assert found(world) == {F.NOT_JUDGED: ["1"], F.IN_ORDER: ["f"]}
    world.table["1"]["FirstName"] = {"S": "Ann"}
    assert found(world)[F.STALE] == ["1"]


# Outside the patient's partition


def test_a_misplaced_record_on_the_dead_letter_topic_is_a_dead_letter(world):
    receipt = world.post("1", 1, FirstName="Anke")
    world.catch_up()
    assert found(world) == {F.DEAD_LETTERED: [str(receipt)], F.IN_ORDER: ["1", "f"]}
    assert not report_of(world).damaged


def test_a_misplaced_record_that_is_not_committed_is_behind(world):
    receipt = world.post("1", 1, FirstName="Anke")
    assert found(world) == {F.BEHIND: [str(receipt)], F.IN_ORDER: ["1", "f"]}


def test_a_misplaced_record_that_was_committed_and_is_no_dead_letter_is_lost(world):
    receipt = world.post("1", 1, FirstName="Anke")
    world.catch_up()
    world.letters.clear()
    assert found(world) == {F.LOST: [str(receipt)], F.IN_ORDER: ["1", "f"]}


@pytest.mark.parametrize("fields", [{}, {"FirstName": "Anke"}, {"FirstName": "Ann"}])
@pytest.mark.parametrize("newest", [True, False], ids=["last", "overwritten"])
@pytest.mark.parametrize("replayed", [True, False], ids=["replayed", "as it was"])
def test_an_item_that_includes_one_of_an_earlier_release_is_diverged(
    world, fields, newest, replayed
):
    """Whichever came last: records of two partitions have no order."""
    receipt = world.post("1", 1, **fields)
    world.apply_as_earlier_releases(1)
    if not newest:
        world.post("1", FirstName="Anna")
    world.catch_up()
    if replayed:  # this release has read it, too
        world.letters.add(receipt)
    dead = {F.DEAD_LETTERED: [str(receipt)]} if replayed else {}
    assert found(world) == {F.DIVERGED: ["1"], F.IN_ORDER: ["f"], **dead}
    assert report_of(world).damaged == 1
    assert report_of(world).tallies[F.DIVERGED].records == (not replayed)


def test_an_item_of_misplaced_records_only_is_diverged(world):
    world.post("q", 1, FirstName="Quin")
    world.apply_as_earlier_releases(1)
    world.commit()
    assert found(world) == {F.DIVERGED: ["q"], F.IN_ORDER: ["1", "f"]}


def test_an_item_with_a_misplaced_record_is_diverged_after_the_log_was_truncated(world):
    world.post("1", 1, FirstName="Anke")
    world.apply_as_earlier_releases(1)
    world.commit()
    world.low[1] = 1
    assert found(world) == {F.DIVERGED: ["1"], F.IN_ORDER: ["f"]}


def test_a_misplaced_record_after_an_included_one_is_a_dead_letter(world):
    world.post("1", 1, FirstName="Anke")
    world.apply_as_earlier_releases(1)
    receipt = world.post("1", 1, FirstName="Anni")
    world.catch_up()
    expected = {F.DIVERGED: ["1"], F.DEAD_LETTERED: [str(receipt)], F.IN_ORDER: ["f"]}
    assert found(world) == expected


def test_an_invalid_record_beside_a_misplaced_one_is_a_dead_letter(world):
    """It is below that partition's fence, but no release ever applied it."""
    receipt = world.produce(b"[", b"1", 1)
    world.apply(1)
    world.post("1", 1, FirstName="Anke")
    world.apply_as_earlier_releases(1)
    world.commit()
    expected = {F.DIVERGED: ["1"], F.DEAD_LETTERED: [str(receipt)], F.IN_ORDER: ["f"]}
    assert found(world) == expected


def test_a_misplaced_record_has_no_finding_if_the_item_has_no_fence(world):
    world.post("1", 1, FirstName="Anke")
    world.apply_as_earlier_releases(1)
    world.commit()
    world.table["1"] = {n: v for n, v in world.table["1"].items() if n[0] != "_"}
    assert found(world) == {F.UNKNOWN: ["1"], F.IN_ORDER: ["f"]}


# The report


def test_the_shares_are_stable_and_together_the_whole():
    world = World()
    numbers = (f"patient {number}" for number in count())
    at_home = (p for p in numbers if partition_of(p, TOPIC.partitions) == 0)
    for patient in islice(at_home, 200):
        world.post(patient, FirstName="A")
    world.catch_up()
    shares = [Share(parts, 8) for parts in range(1, 9)]
    patients = [{*report_of(world, s).tallies[F.IN_ORDER].patients} for s in shares]
    assert all(few < more for few, more in zip(patients, patients[1:], strict=False))
    assert 10 < len(patients[0]) < 40
    assert len(patients[-1]) == 200


def test_damage_outside_the_share_is_not_seen(world):
    world.table["1"]["FirstName"] = {"S": "Eve"}
    outside = next(Share(1, n) for n in range(2, 99) if not Share(1, n).has(b"1"))
    assert not report_of(world, outside).damaged


def test_the_report_names_the_first_patients_and_json_all_of_them(world):
    for number in range(30):
        world.table[f"x{number:02}"] = {"PatientId": {"S": f"x{number:02}"}}
    report = report_of(world)
    text = "".join(as_text(report))
    assert "x09, ... 20 more" in text
    assert "x10" not in text
    assert len(as_json(report)["findings"]["unknown"]["patient_ids"]) == 30
    assert "patient_ids" not in as_json(report)["findings"]["in_order"]


def test_no_report_holds_a_value(world):
    world.table["1"]["FirstName"] = {"S": "Eve"}
    world.produce(b'"Mallory"', b"1")
    report = report_of(world)
    printed = "".join(as_text(report)) + json.dumps(as_json(report)) + repr(report)
    for value in ("Eve", "Ann", "Mallory", "Lee"):
        assert value not in printed


def test_a_long_audit_logs_its_progress_and_hands_on_every_record(
    world, monkeypatch, caplog
):
    monkeypatch.setattr(audit_profiles, "LOGGED", 2)
    caplog.set_level("INFO")
    records = world.log[0]
    assert [*audit_profiles.logged(records, 9)] == records
    assert caplog.messages == ["read 2 of 9 records", "read 4 of 9 records"]
