"""A write of a consumer that died lands late, when topic or table is another one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.chaos.observed import Item
from tests.engines.process import wait_until
from tests.real.scene import Consuming, Scene

pytestmark = pytest.mark.real

WRITES = ("UpdateItem", "BatchExecuteStatement")


@dataclass
class Zombie:
    """What holds a write of patient 1; `backup` is the item as it once was."""

    member: Consuming
    backup: Item

    def let_go(self) -> None:
        proxy = self.member.proxy
        proxy.release()
        wait_until(lambda: proxy.busy == 0, 10, "the write was not let go")


@pytest.fixture
def zombie(scene):
    """Dead, after two updates that it applied, with the write of a third."""
    member = scene.joined("zombie")
    scene.update("1", FirstName="John")
    scene.settle()
    backup = scene.item("1")
    scene.update("1", Phone="1")
    scene.settle()
    member.proxy.hold(*WRITES)
    scene.update("1", LastName="held")
    wait_until(lambda: member.proxy.held > 0, 10, "no write was held")
    member.kill()
    return Zombie(member, backup)


def shown(scene: Scene) -> dict[str, str]:
    """Patient 1, without what the consumer adds."""
    return {
        name: value["S"]
        for name, value in scene.item("1").items()
        if name in ("FirstName", "LastName", "Phone")
    }


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_write_of_a_topic_that_is_no_more_never_undoes_one_of_the_new(
    scene, zombie, when
):
    scene.delete_topic(scene.topic)
    scene.provision()
    if when == "before":
        zombie.let_go()
    scene.update("1", LastName="new")
    scene.joined("heir")
    wait_until(lambda: shown(scene).get("LastName") == "new", 60, "not applied")
    newest = scene.item("1")
    zombie.let_go()
    assert scene.item("1") == newest
    assert shown(scene) == {"FirstName": "John", "LastName": "new", "Phone": "1"}


@pytest.mark.parametrize("restored", [False, True], ids=["made anew", "restored"])
@pytest.mark.parametrize("when", ["before", "while", "after"])
def test_a_write_to_a_table_that_is_no_more_costs_its_successor_no_update(
    scene, zombie, when, restored
):
    scene.dynamodb.delete_table(TableName=scene.table)
    scene.provision()
    if restored:
        scene.dynamodb.put_item(TableName=scene.table, Item=zombie.backup)
    if when == "before":
        zombie.let_go()
    heir = scene.member("heir")
    heir.proxy.hold(*WRITES)
    heir.start()
    wait_until(lambda: heir.proxy.held > 0, 30, "the heir wrote nothing")
    if when == "while":
        zombie.let_go()
    heir.proxy.release()
    scene.settle()
    zombie.let_go()
    scene.assert_sound()
    assert shown(scene) == {"FirstName": "John", "LastName": "held", "Phone": "1"}
