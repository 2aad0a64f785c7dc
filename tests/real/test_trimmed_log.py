"""A log whose beginning is gone, and a group whose offsets do not count: it stops."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from confluent_kafka import KafkaException

from tests.chaos.observed import Item
from tests.engines.process import wait_until
from tests.real.scene import PARTITIONS, Scene
from tests.stack import Command

pytestmark = pytest.mark.real

Loss = Callable[[Scene], None]


def forget_offsets(scene: Scene) -> None:
    """Deleted, or expired: a week after the last consumer left, by default."""
    scene.forget_commits()


def replace_table(scene: Scene) -> None:
    """By a backup: all that was applied is in it."""
    kept = scene.items()
    scene.dynamodb.delete_table(TableName=scene.table)
    scene.provision()
    for item in kept.values():
        scene.dynamodb.put_item(TableName=scene.table, Item=item)


def trim(scene: Scene) -> dict[int, int]:
    """Cut the logs, the last one to its end; where each begins now."""
    lows = {**dict.fromkeys(range(PARTITIONS), 3), PARTITIONS - 1: scene.ends()[2]}
    for partition, low in lows.items():
        scene.delete_records(partition, low)
    return lows


def assert_begins_nowhere(command: Command, scene: Scene, lows: dict[int, int]) -> None:
    assert command.exit_code(60) == 1
    said = re.fullmatch(
        rf"CommandError: partition (\d) of topic {scene.topic} holds the offsets "
        r"(\d+) to (\d+), and the group is to begin at 0: the records before (\d+) are "
        r"gone from the log\. To begin at \2 all the same, set the group's offsets with "
        r"`kafka-consumer-groups\.sh --reset-offsets --to-earliest --execute`; see "
        r"docs/operations\.md\.",
        command.log.read_text().splitlines()[-1],
    )
    assert said, command.log.read_text()
    partition, low, high, before = map(int, said.groups())
    assert (low, before, high) == (lows[partition], low, scene.ends()[partition])


def say_so(scene: Scene, table: str = "") -> None:
    """Once the member has left: a group with members takes no offsets."""

    def is_said() -> bool:
        try:
            scene.reset_to_earliest(table)
        except KafkaException:
            return False
        return True

    wait_until(is_said, 30, "the group took no offsets")


def unmarked(item: Item) -> Item:
    """Less the mark: what a former table wrote is adopted by the new one."""
    return {name: value for name, value in item.items() if name != "_incarnation"}


@pytest.mark.parametrize(
    ("lose", "protocol"),
    [
        (forget_offsets, "classic"),
        (forget_offsets, "consumer"),
        (replace_table, "classic"),
    ],
)
def test_a_trimmed_log_is_begun_only_where_an_operator_says_so(
    scene, lose: Loss, protocol
):
    member = scene.joined(KAFKA_GROUP_PROTOCOL=protocol)
    scene.load(60)
    scene.settle()
    member.sigterm()
    lows, before = trim(scene), scene.items()
    lose(scene)
    member.start()
    assert_begins_nowhere(member, scene, lows)
    assert scene.items() == before
    say_so(scene)
    scene.updates(["later-1", "later-2", "later-3", "later-4"])
    member.start()
    scene.settle()
    later = {name for name in scene.items() if name.startswith("later")}
    assert len(later) == 4
    after = scene.items()
    assert {name: unmarked(after[name]) for name in before} == {
        name: unmarked(item) for name, item in before.items()
    }


def test_an_operators_word_is_about_the_table_that_is_there(scene):
    """Though nothing came since: the next table is not begun behind the gap."""
    member = scene.joined()
    scene.load(60)
    scene.settle()
    member.sigterm()
    lows = scene.ends()
    for partition, low in lows.items():
        scene.delete_records(partition, low)
    scene.forget_commits()
    say_so(scene)
    member.start()
    member.wait_ready()
    wait_until(lambda: all(scene.marks().values()), 30, "no offset got a mark")
    member.sigterm()
    replace_table(scene)
    member.start()
    assert_begins_nowhere(member, scene, lows)


def test_a_rebuild_from_a_trimmed_log_leaves_no_table_with_holes(scene, tmp_path):
    scene.load(60)
    lows = trim(scene)
    table = f"{scene.table}-2"
    arguments = ["rebuild_profiles", "--table", table]
    rebuild = Command("rebuild", tmp_path, scene.stack.environ, arguments)
    rebuild.start()
    assert_begins_nowhere(rebuild, scene, lows)
    say_so(scene, table)
    rebuild.start()
    assert rebuild.exit_code(60) == 0
    assert f"Table {table} holds everything" in rebuild.log.read_text()
