"""Late writes of a former topic or table: whenever one lands, no update is undone.

Every history below is run once for each write that can be held, and each moment at
which it can land: before any later call to the table. Its consumer is killed with the
write under way, or takes it for timed out and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, permutations, product
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from profiles.consumer import loop
from profiles.consumer.loop import ProfileConsumer
from profiles.core import items
from profiles.core.updates import Incarnation
from profiles.dynamodb.writer import TableWriter
from profiles.kafka.groups import Group
from profiles.kafka.topics import Topic
from tests.fakes import TOPIC, Clock, FakeDynamoDB, FakeKafkaConsumer, message

Fields = dict[str, str | None]
Log = list[tuple[str, Fields]]
"""PatientIds, and the fields that each update supplies."""

CLOCK = Clock()

OLD: Log = [
    ("1", {"FirstName": "A", "LastName": "A"}),
    ("f", {"FirstName": "B"}),
    ("1", {"LastName": "C", "Phone": "1"}),
    ("1", {"FirstName": "E", "Phone": None}),
]
NEW: Log = [
    ("1", {"FirstName": "F"}),
    ("f", {"LastName": "G"}),
]


class Killed(BaseException):
    """The consumer, with a write under way."""


class Hold(NamedTuple):
    """The write that is held, by its number, and before which call it lands."""

    held: int
    lands: int
    dies: bool


class HeldDynamoDB(FakeDynamoDB):
    """Counts its calls, and holds one of them.

    Where it is `blind`, every item seems to have the mark that a call names: so no
    write is conditional on more than the fence.
    """

    def __init__(self, hold: Hold | None, blind: bool) -> None:
        super().__init__()
        self.calls = 0
        self._hold = hold
        self._held: Callable[[], Any] = int
        self._blind = blind

    def update_item(self, **call: Any) -> dict[str, Any]:
        def run() -> dict[str, Any]:
            self._mark_all(call["ExpressionAttributeValues"][":m"])
            return super(HeldDynamoDB, self).update_item(**call)

        answer: dict[str, Any] = self._run(run)
        return answer

    def batch_execute_statement(self, Statements: list[Any]) -> dict[str, Any]:
        def run() -> dict[str, Any]:
            self._mark_all(Statements[0]["Parameters"][-2])
            return super(HeldDynamoDB, self).batch_execute_statement(Statements)

        answer: dict[str, Any] = self._run(run)
        return answer

    def _mark_all(self, mark: dict[str, str]) -> None:
        for item in self.items.values() if self._blind else ():
            item[items.MARK] = mark

    def _run(self, call: Callable[[], Any]) -> Any:
        number, self.calls = self.calls, self.calls + 1
        if self._hold and number == self._hold.lands:
            self.land()
        if self._hold and number == self._hold.held:
            self._held = call
            raise Killed if self._hold.dies else ReadTimeoutError(endpoint_url="")
        return call()

    def land(self) -> None:
        """Nobody hears what became of it."""
        held, self._held = self._held, int
        with suppress(ClientError):
            held()


class World:
    """One partition, one table, and whoever consumes; its histories are methods."""

    def __init__(self, hold: Hold | None = None, blind: bool = False) -> None:
        self.dynamodb = HeldDynamoDB(hold, blind)
        self.log: Log = []
        self.former_logs: list[tuple[Log, int]] = []
        """Each with how far it was committed."""
        self.changes: list[int] = []
        """How many calls there had been when topic or table was replaced."""
        self._topic = Topic(TOPIC.name, "topic-1", TOPIC.partitions)
        self._tables = 1
        self._committed: dict[int, Any] = {}

    # What happens

    def post(self, log: Log) -> None:
        self.log += log

    def recreate_topic(self) -> None:
        self.former_logs.append((self.log, self._done()))
        self.changes.append(self.dynamodb.calls)
        number = len(self.former_logs) + 1
        self._topic = Topic(TOPIC.name, f"topic-{number}", TOPIC.partitions)
        self.log = []

    def backup(self) -> dict[str, Any]:
        return {key: dict(item) for key, item in self.dynamodb.items.items()}

    def replace_table(self, restored: dict[str, Any] | None = None) -> None:
        self.changes.append(self.dynamodb.calls)
        self._tables += 1
        self.dynamodb.items = {key: dict(i) for key, i in (restored or {}).items()}

    def consume(self, of: int) -> None:
        """All that is left, whoever dies meanwhile."""
        while self._done() < len(self.log):
            self.begin(len(self.log), of)

    def begin(self, batches: int, of: int) -> None:
        """At most so many batches: the consumer may die, and none be left."""
        with suppress(Killed):
            self._consume(batches, of)

    def _done(self) -> int:
        """The offset that is committed for this topic and table."""
        mark = str(Incarnation(self._topic.id, self._store()))
        place = self._committed.get(0)
        return place.offset if place and place.metadata == mark else 0

    def _consume(self, batches: int, of: int) -> None:
        kafka: Any = FakeKafkaConsumer(CLOCK, [])
        kafka.stored = self._committed
        client: Any = self.dynamodb
        member = ProfileConsumer(
            kafka.made,
            lambda: self._topic,
            self._topic.partitions,
            lambda: Group("STABLE", None),
            self._store(),
            self._store,
            TableWriter(client, "t").apply,
            lambda letters: [],
        )
        kafka.subscribe([], member._on_assign, member._on_revoke, None)
        kafka.assign(0)
        first = max(0, kafka.starts[0])
        for start in range(first, len(self.log), of)[:batches]:
            CLOCK.sleep(loop.STORE_S)
            end = min(start + of, len(self.log))
            kafka.turns = [[self._message(offset) for offset in range(start, end)]]
            member.turn()

    def _message(self, offset: int) -> Any:
        patient, fields = self.log[offset]
        supplied: dict[str, Any] = {**fields}
        return message(offset, patient, **supplied)

    def _store(self) -> str:
        return f"table-{self._tables}"

    # What came of it

    def shown(self) -> dict[str, Fields]:
        """What each patient's item shows, its moment apart."""
        shown: dict[str, Fields] = {}
        for patient, item in self.dynamodb.items.items():
            shown[patient] = {**items.profile(item)}
            del shown[patient]["PatientId"], shown[patient]["UpdatedAt"]
        return shown

    def may_show(self, patient: str) -> list[Fields]:
        """The fold of the log, on top of as much of each former one as was applied.

        A table that is made anew has of a former log what late writes left there.
        """
        former = [self._kept(patient, *log) for log in self.former_logs]
        ours = _of(self.log, patient)
        return [_fold([*chain(*parts), *ours]) for parts in product(*former)]

    def _kept(self, patient: str, log: Log, done: int) -> list[list[Fields]]:
        all_, least = _of(log, patient), len(_of(log[:done], patient))
        sizes = range(len(all_) + 1)
        if self._tables == 1:
            return [all_[:size] for size in sizes if size >= least]
        return [[*some] for size in sizes for some in permutations(all_, size)]


def _of(log: Log, patient: str) -> list[Fields]:
    return [fields for who, fields in log if who == patient]


def _fold(updates: list[Fields]) -> Fields:
    fields: Fields = {}
    for update in updates:
        fields |= update
    return {name: value for name, value in fields.items() if value is not None}


# Histories


def a_recreated_topic(world: World, of: int) -> None:
    world.post(OLD)
    world.consume(of)
    world.recreate_topic()
    world.post(NEW)
    world.consume(of)


def a_topic_recreated_before_it_was_read_to_its_end(world: World, of: int) -> None:
    world.post(OLD)
    world.begin(1, of)
    world.recreate_topic()
    world.post(NEW)
    world.consume(of)


def a_topic_recreated_twice(world: World, of: int) -> None:
    for log in (OLD[:3], OLD[3:], NEW):
        world.recreate_topic()
        world.post(log)
        world.consume(of)


def a_table_made_anew(world: World, of: int) -> None:
    world.post([*OLD, *NEW])
    world.begin(2, of)
    world.replace_table()
    world.consume(of)


def a_table_made_anew_while_it_is_filled(world: World, of: int) -> None:
    a_table_made_anew(world, of)
    world.replace_table()
    world.begin(1, of)
    world.replace_table()
    world.consume(of)


def a_table_restored(world: World, of: int) -> None:
    world.post([*OLD, *NEW])
    world.begin(1, of)
    backup = world.backup()
    world.consume(of)
    world.replace_table(backup)
    world.consume(of)


def a_table_restored_to_what_a_restored_one_was(world: World, of: int) -> None:
    world.post(OLD)
    world.begin(2, of)
    backup = world.backup()
    world.consume(of)
    world.replace_table(backup)
    world.begin(1, of)
    backup = world.backup()
    world.post(NEW)
    world.consume(of)
    world.replace_table(backup)
    world.consume(of)


def a_table_made_anew_and_then_the_topic(world: World, of: int) -> None:
    world.post(OLD)
    world.consume(of)
    world.replace_table()
    world.begin(1, of)
    world.recreate_topic()
    world.post(NEW)
    world.consume(of)


def a_topic_recreated_and_then_the_table_made_anew(world: World, of: int) -> None:
    world.post(OLD)
    world.consume(of)
    world.recreate_topic()
    world.post(NEW)
    world.begin(1, of)
    world.replace_table()
    world.consume(of)


HISTORIES = [
    a_recreated_topic,
    a_topic_recreated_before_it_was_read_to_its_end,
    a_topic_recreated_twice,
    a_table_made_anew,
    a_table_made_anew_while_it_is_filled,
    a_table_restored,
    a_table_restored_to_what_a_restored_one_was,
    a_table_made_anew_and_then_the_topic,
    a_topic_recreated_and_then_the_table_made_anew,
]
History = Callable[[World, int], None]


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    monkeypatch.setattr(loop, "time", CLOCK)
    monkeypatch.setattr(loop.log, "disabled", True)  # thousands of runs
    monkeypatch.setattr(loop, "_pauses", lambda: iter([0.1] * 99))


def holds(history: History, of: int) -> Iterator[Hold]:
    """Each write, and each moment after topic or table was replaced, or the end."""
    world = World()
    history(world, of)
    calls = world.dynamodb.calls
    for dies, held in product((True, False), range(calls)):
        later = [change for change in world.changes if change > held]
        for lands in range(min(later, default=calls), calls + 2):
            yield Hold(held, lands, dies)


def damage(history: History, of: int, blind: bool = False) -> list[Any]:
    """Each hold after which a patient shows what it can not, and what that is."""
    found: list[Any] = []
    for hold in holds(history, of):
        world = World(hold, blind)
        history(world, of)
        world.dynamodb.land()
        for patient, fields in world.shown().items():
            if fields not in world.may_show(patient):
                found.append((hold, patient, fields))
    return found


@pytest.mark.parametrize("of", [1, 3], ids=["one by one", "in batches"])
@pytest.mark.parametrize("history", HISTORIES)
def test_whenever_a_held_write_lands_no_update_is_undone(history, of):
    assert damage(history, of) == []


@pytest.mark.parametrize(
    ("history", "of"),
    [
        (a_topic_recreated_before_it_was_read_to_its_end, 1),
        (a_table_made_anew, 3),
        (a_table_restored, 1),
    ],
)
def test_without_the_mark_a_held_write_undoes_some(history, of):
    assert damage(history, of, blind=True) != []


def test_a_history_that_nobody_disturbs_is_the_fold_of_its_log():
    for history in HISTORIES:
        world = World()
        history(world, 3)
        for patient in "1f":
            assert world.shown()[patient] in world.may_show(patient)
