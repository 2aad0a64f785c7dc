"""Scripted faults: harmless to the product, seen by the judge once a promise is gone.

Each scene is played twice, with the product as it is and with one mutation of it.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.chaos.clients import Poster, Sampler
from tests.chaos.judge import DAMAGES, Verdict, judge
from tests.chaos.proxy import Proxy
from tests.chaos.run import observe
from tests.engines.process import Engine, wait_until
from tests.engines.real import DynamoDBLocal, KafkaCluster
from tests.stack import MANAGE, ROOT, TABLE, TOPIC, Member, Web, stack_on

pytestmark = pytest.mark.real

PATIENT = "1"
SOUND: Sequence[str] = MANAGE
MUTATIONS = "tests.chaos.mutations"


def mutated(name: str) -> list[str]:
    return [sys.executable, "-m", f"{MUTATIONS}.{name}"]


class Scene:
    """One broker, a table, one patient with one client; processes as they are called.

    Whatever was called for ends with the scene.
    """

    def __init__(self, directory: Path, ends: ExitStack) -> None:
        self.broker = ends.enter_context(KafkaCluster(directory)).brokers[0]
        self.dynamodb = ends.enter_context(DynamoDBLocal(directory))
        self.stack = stack_on(
            directory, self.broker.address, self.dynamodb.endpoint_url
        )
        self.stack.manage("provision")
        self._ends = ends
        self._over = Event()
        self._sampler = Sampler(
            self.dynamodb.endpoint_url, TABLE, [PATIENT], 0.02, self._over
        )
        self._sampler.start()
        ends.callback(self._sampler.join)
        ends.callback(self._over.set)

    def web(self, manage: Sequence[str]) -> Poster:
        """A client of a web process that is up."""
        environ = {**self.stack.environ, "PYTHONPATH": str(ROOT)}
        web = self._ends.enter_context(
            Web(self.stack.directory, environ, "web", manage)
        )
        choose = random.Random(0)
        self.client = Poster("client", [web.port], [PATIENT], 8, 0, choose, self._over)
        self._ends.callback(self.client.close)
        return self.client

    def member(self, name: str, manage: Sequence[str]) -> tuple[Engine, Proxy]:
        """A consumer, not started yet, and what stands between it and the table."""
        proxy = Proxy(self.dynamodb.port)
        environ = {
            **self.stack.environ,
            "DYNAMODB_ENDPOINT_URL": proxy.endpoint_url,
            "PYTHONPATH": str(ROOT),
        }
        member = Member(self.stack.directory, environ, name, manage)
        self._ends.callback(proxy.close)
        self._ends.callback(member.kill)
        return member, proxy

    def update(self, last_name: str) -> None:
        """Post until it is accepted."""
        before = len(self.client.accepted)

        def accepted() -> bool:
            self.client.post(PATIENT, LastName=last_name)
            return len(self.client.accepted) > before

        wait_until(accepted, 20, "the update was not accepted")

    def wait_shown(self, last_name: str) -> None:
        def shown() -> bool:
            samples = self._sampler.samples
            item = (samples[-1].item if samples else None) or {}
            return item.get("LastName") == {"S": last_name}

        wait_until(shown, 30, f"{last_name} was not applied")

    def wait_sampled(self) -> None:
        """Until the table as it is now has been seen."""
        seen = len(self._sampler.samples) + 1
        wait_until(lambda: len(self._sampler.samples) > seen, 10, "no sample")

    def committed(self) -> int:
        """How many records the group has done with."""
        reader = Consumer(
            {
                "bootstrap.servers": self.stack.bootstrap_servers,
                "group.id": f"profiles-{TABLE}",
            }
        )
        places = [TopicPartition(TOPIC, partition) for partition in range(12)]
        try:
            return sum(max(0, p.offset) for p in reader.committed(places, timeout=10))
        finally:
            reader.close()

    def verdict(self, name: str) -> Verdict:
        self.stack.catch_up()
        self.wait_sampled()
        verdict = judge(observe(self.stack, [self.client], [self._sampler]))
        counts = " ".join(f"{each}={getattr(verdict, each)}" for each in DAMAGES)
        sys.stdout.write(f"\n{name}: accepted={verdict.accepted} {counts}\n")
        return verdict


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as ends:
        yield Scene(tmp_path, ends)


def a_late_write(scene: Scene, manage: Sequence[str]) -> None:
    """A consumer's write is held up until another one has gone on."""
    scene.web(SOUND)
    zombie, on_the_way = scene.member("zombie", manage)
    heir, _ = scene.member("heir", manage)
    zombie.start()
    for name in ("new", "first"):  # after a new item, the next write is an INSERT
        scene.update(name)
        scene.wait_shown(name)
    on_the_way.hold()
    scene.update("second")
    wait_until(lambda: on_the_way.held > 0, 10, "no write was held")
    zombie.suspend()
    heir.start()
    scene.update("third")
    scene.wait_shown("third")
    on_the_way.release()
    wait_until(lambda: on_the_way.busy == 0, 10, "the write was not let go")
    scene.wait_sampled()
    zombie.resume()


def a_kill_before_the_write(scene: Scene, manage: Sequence[str]) -> None:
    """A consumer is killed while its write is held up, and the write with it."""
    scene.web(SOUND)
    victim, on_the_way = scene.member("victim", manage)
    heir, _ = scene.member("heir", SOUND)
    victim.start()
    scene.update("first")
    scene.wait_shown("first")
    wait_until(lambda: scene.committed() == 1, 10, "the first was not committed")
    on_the_way.hold()
    scene.update("second")
    wait_until(lambda: on_the_way.held > 0, 10, "no write was held")
    if manage is not SOUND:
        wait_until(lambda: scene.committed() == 2, 10, "nothing was committed early")
    victim.kill()
    on_the_way.drop()
    heir.start()


def a_broker_killed_unheard(scene: Scene, manage: Sequence[str]) -> None:
    """A broker dies with updates that were sent to it and that it never read."""
    client = scene.web(manage)
    member, _ = scene.member("member", SOUND)
    member.start()
    scene.update("first")
    scene.wait_shown("first")
    scene.broker.suspend()
    client.post(PATIENT, LastName="second")
    client.post(PATIENT, FirstName="third")
    scene.broker.kill()
    scene.broker.start()
    scene.broker.wait_ready()


def test_a_late_write_changes_nothing(scene):
    a_late_write(scene, SOUND)
    assert not scene.verdict("late write, fence").damaged


def test_without_the_fence_a_late_write_sets_the_item_back(scene):
    a_late_write(scene, mutated("no_fence"))
    assert scene.verdict("late write, no fence").backwards > 0


def test_an_unwritten_update_is_consumed_again_after_a_kill(scene):
    a_kill_before_the_write(scene, SOUND)
    assert not scene.verdict("kill before the write, commit after it").damaged


def test_with_auto_commit_a_kill_loses_what_was_not_written(scene):
    a_kill_before_the_write(scene, mutated("auto_commit"))
    assert scene.verdict("kill before the write, auto-commit").lost > 0


def test_nothing_is_accepted_that_the_broker_did_not_acknowledge(scene):
    a_broker_killed_unheard(scene, SOUND)
    verdict = scene.verdict("broker killed unheard, acks=all")
    assert verdict.accepted == 1
    assert not verdict.damaged


def test_with_acks_0_a_killed_broker_loses_what_was_accepted(scene):
    a_broker_killed_unheard(scene, mutated("acks_0"))
    assert scene.verdict("broker killed unheard, acks=0").lost > 0
