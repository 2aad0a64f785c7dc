"""An item that somebody else has damaged: named, mended as the manual says, and whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Message, TopicPartition

from tests.real.scene import Consuming, Scene

pytestmark = pytest.mark.real

DYNAMODBS_LIMIT = 400 * 1024
Mend = Callable[[Scene, Message, str], None]


@pytest.fixture
def member(scene):
    """Not running; patient 1 has an item."""
    member = scene.joined()
    scene.update("1", FirstName="John")
    scene.settle()
    member.sigterm()
    return member


def fence(scene: Scene) -> str:
    (name,) = (name for name in scene.item("1") if name.startswith("_fence:"))
    return name


def damage(scene: Scene, name: str, value: Any) -> None:
    item = {**scene.item("1"), name: value}
    scene.dynamodb.put_item(TableName=scene.table, Item=item)


def remove(scene: Scene, name: str) -> None:
    scene.dynamodb.update_item(
        TableName=scene.table,
        Key={"PatientId": {"S": "1"}},
        UpdateExpression="REMOVE #damaged",
        ExpressionAttributeNames={"#damaged": name},
    )


def remove_the_attribute(scene: Scene, message: Message, name: str) -> None:
    remove(scene, name)


def write_it_anew_from_the_log(scene: Scene, message: Message, name: str) -> None:
    scene.dynamodb.delete_item(TableName=scene.table, Key={"PatientId": {"S": "1"}})
    scene.commit(TopicPartition(scene.topic, message.partition() or 0, 0))


def assert_names_the_item(
    scene: Scene, member: Consuming, message: Message, why: str
) -> None:
    assert member.exit_code(60) == 1
    assert member.last_line() == (
        f"CommandError: the item of patient 1 in table {scene.table} "
        f"can't be written: {why}; the update in partition {message.partition()} at "
        f"offset {message.offset()} waits for it. Mend the item as docs/operations.md "
        "describes under 'A damaged item'."
    )


@pytest.mark.parametrize(
    ("damaged", "mend"),
    [
        ({"S": "x"}, remove_the_attribute),
        ({"N": "1000.5"}, write_it_anew_from_the_log),
    ],
)
def test_a_damaged_fence_stops_the_consumer_until_it_is_mended(
    scene, member, damaged, mend: Mend
):
    name = fence(scene)
    damage(scene, name, damaged)
    message = scene.update("1")
    member.start()
    assert_names_the_item(scene, member, message, f"its {name} is no offset")
    mend(scene, message, name)
    member.start()
    scene.settle()
    scene.assert_sound()


def test_a_damaged_mark_stops_the_consumer_until_it_is_mended(scene, member):
    damage(scene, "_incarnation", {"N": "1"})
    message = scene.update("1")
    member.start()
    assert_names_the_item(scene, member, message, "its _incarnation is no text")
    remove(scene, "_incarnation")
    member.start()
    scene.settle()
    scene.assert_sound()


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize(
    ("others", "mend"), [(0, remove_the_attribute), (40, write_it_anew_from_the_log)]
)
def test_an_item_that_is_full_stops_the_consumer_until_it_is_mended(
    scene, member, others, mend: Mend, marked
):
    """Alone in its batch, or with others: those are written in calls of many.

    One without a mark, of an earlier release, is refused for that first.
    """
    if not marked:
        remove(scene, "_incarnation")
    damage(scene, "Foreign", {"S": "x" * (DYNAMODBS_LIMIT - 250)})
    patients = [f"other-{each}" for each in range(others)]
    *_, message = scene.updates([*patients, "1"], Address="long " * 60)
    member.start()
    why = "it would be larger than the 400 KB that DynamoDB allows"
    assert_names_the_item(scene, member, message, why)
    mend(scene, message, "Foreign")
    member.start()
    scene.settle()
    scene.assert_sound()
