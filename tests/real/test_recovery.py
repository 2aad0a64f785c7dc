"""Audit, rebuild, replay and redrive on Apache Kafka and DynamoDB Local."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient

from tests import stack
from tests.engines.process import wait_until
from tests.stack import MANAGE, TABLE, TOPIC, Command, Stack

pytestmark = pytest.mark.real

GROUP = f"profiles-{TABLE}"
PARTITIONS = 12
FIELDS = ("FirstName", "LastName", "Phone", "Address")

NEXT_RELEASE = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "patientsite.settings"
import django
django.setup()
from profiles.core import serializers
serializers._PROFILE.fields["Shoe"] = serializers.TextField(max_length=2)
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
"""`manage.py` of a release that knows one field more."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack.real(tmp_path_factory.mktemp("recovery")) as engines:
        fill(engines, updates=2_000, patients=200)
        engines.catch_up()
        yield engines


@pytest.fixture
def apart(running: Stack) -> Stack:
    """A topic and a table for one test alone: what it leaves is no other's damage."""
    names = {"KAFKA_TOPIC": "apart", "DYNAMODB_TABLE": "apart"}
    engines = Stack(running.directory, {**running.environ, **names})
    engines.manage("provision")
    return engines


def fill(engines: Stack, updates: int, patients: int, prefix: str = "p") -> None:
    choose = random.Random(prefix)
    produce(
        engines,
        [an_update(choose, f"{prefix}-{n % patients}") for n in range(updates)],
    )


def an_update(choose: random.Random, patient: str) -> tuple[bytes, bytes]:
    """Key and value."""
    values = [None, *(f"value {number}" for number in range(50))]
    fields = {name: choose.choice(values) for name in choose.sample(FIELDS, 2)}
    return patient.encode(), json.dumps({"PatientId": patient, **fields}).encode()


def produce(
    engines: Stack, records: list[tuple[bytes, bytes]], **config: Any
) -> list[tuple[int, int]]:
    """Put records on the topic as a foreign producer does; their partitions, offsets."""
    places: list[tuple[int, int]] = []

    def delivered(error: Any, message: Any) -> None:
        assert error is None, error
        places.append((message.partition(), message.offset()))

    producer = Producer(
        {
            "bootstrap.servers": engines.bootstrap_servers,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 1_000_000,
            **config,
        }
    )
    for key, value in records:
        topic = engines.environ.get("KAFKA_TOPIC", TOPIC)
        producer.produce(topic, value, key, on_delivery=delivered)
    assert producer.flush(60) == 0
    return places


def audit(engines: Stack, *options: str, **environ: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and each finding that has patients or records but dead letters."""
    done = subprocess.run(
        [*MANAGE, "audit_profiles", "--json", *options],
        env={**engines.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)["findings"]
    return done.returncode, {
        name: tally
        for name, tally in found.items()
        if name != "dead_lettered" and (tally["patients"] or tally["records"])
    }


def scan(engines: Stack, table: str = TABLE) -> dict[str, dict[str, Any]]:
    pages = engines.dynamodb().get_paginator("scan")
    return {
        item["PatientId"]["S"]: dict(item)
        for page in pages.paginate(TableName=table, ConsistentRead=True)
        for item in page["Items"]
    }


def unmarked(items: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Without what names the table."""
    return {
        patient: {n: v for n, v in item.items() if n != "_incarnation"}
        for patient, item in items.items()
    }


def put(engines: Stack, item: dict[str, Any]) -> None:
    engines.dynamodb().put_item(TableName=TABLE, Item=item)


def test_a_system_at_rest_audits_clean(running):
    code, found = audit(running)
    assert (code, [*found]) == (0, ["in_order"])
    assert found["in_order"]["patients"] == len(scan(running))


def test_a_system_under_load_audits_clean(running):
    ended = threading.Event()

    def load() -> None:
        choose = random.Random(1)
        while not ended.wait(0.05):
            names = [f"load-{choose.randrange(300)}" for _ in range(20)]
            produce(running, [an_update(choose, name) for name in names])

    loader = threading.Thread(target=load)
    with running.member("under-load") as member:
        loader.start()
        try:
            wait_until(lambda: member.said(b"batch: "), 30, "no batch")
            audits = [audit(running) for _ in range(3)]
        finally:
            ended.set()
            loader.join()
            member.stop()
    running.catch_up()
    assert [code for code, _ in audits] == [0, 0, 0]
    assert {*audits[0][1]} <= {"in_order", "behind"}
    assert [*audit(running)[1]] == ["in_order"]


def fence_of(item: dict[str, Any]) -> str:
    return next(name for name in item if name.startswith("_fence:"))


def field_of(item: dict[str, Any]) -> str:
    return next(name for name in FIELDS if name in item)


def lose_the_item(engines: Stack, item: dict[str, Any]) -> None:
    engines.dynamodb().delete_item(
        TableName=TABLE, Key={"PatientId": item["PatientId"]}
    )


def make_a_field_stale(engines: Stack, item: dict[str, Any]) -> None:
    put(engines, {n: v for n, v in item.items() if n != field_of(item)})


def make_the_time_wrong(engines: Stack, item: dict[str, Any]) -> None:
    put(engines, {**item, "UpdatedAt": {"S": "2001-01-01T00:00:00.000+00:00"}})


def invent_a_value(engines: Stack, item: dict[str, Any]) -> None:
    put(engines, {**item, field_of(item): {"S": "invented"}})


def invent_a_fence(engines: Stack, item: dict[str, Any]) -> None:
    put(engines, {**item, fence_of(item): {"N": "1000000"}})


def take_the_fence(engines: Stack, item: dict[str, Any]) -> None:
    put(engines, {n: v for n, v in item.items() if n != fence_of(item)})


DAMAGES: dict[Callable[[Stack, dict[str, Any]], None], str] = {
    lose_the_item: "lost",
    make_a_field_stale: "stale",
    make_the_time_wrong: "diverged",
    invent_a_value: "diverged",
    invent_a_fence: "unknown",
    take_the_fence: "unknown",
}


def test_each_damage_is_named_and_ends_the_audit_with_1(running):
    before = scan(running)
    damaged = dict(zip(sorted(before), DAMAGES, strict=False))
    for patient, damage in damaged.items():
        damage(running, before[patient])
    try:
        code, found = audit(running)
    finally:
        for patient in damaged:
            put(running, before[patient])
    assert code == 1
    for patient, damage in damaged.items():
        finding = DAMAGES[damage]
        named = {
            name for name in found if patient in found[name].get("patient_ids", ())
        }
        assert named == {finding}, damage.__name__
    assert audit(running)[0] == 0


def test_a_rebuilt_table_equals_the_live_one_and_goes_on_where_it_ended(running):
    before = scan(running)
    said = running.manage("rebuild_profiles", "--table", "rebuilt")
    assert "restart web and consumers with DYNAMODB_TABLE=rebuilt" in said
    assert unmarked(scan(running, "rebuilt")) == unmarked(before)
    code, found = audit(running, DYNAMODB_TABLE="rebuilt")
    assert (code, [*found]) == (0, ["in_order"])
    fill(running, updates=20, patients=20, prefix="after")
    assert {*audit(running, DYNAMODB_TABLE="rebuilt")[1]} == {"in_order", "behind"}
    running.catch_up()
    running.manage("rebuild_profiles", "--table", "rebuilt")
    assert unmarked(scan(running, "rebuilt")) == unmarked(scan(running))


def test_a_rebuild_that_was_killed_goes_on(running, tmp_path):
    fill(running, updates=8_000, patients=8_000, prefix="many")
    running.catch_up()
    arguments = ["rebuild_profiles", "--table", "resumed"]
    first = Command("rebuild", tmp_path, running.environ, arguments)
    first.start()
    wait_until(lambda: first.log.read_bytes().count(b"batch: ") > 1, 60, "no batches")
    first.kill()
    half = len(scan(running, "resumed"))
    again = Command("again", tmp_path, running.environ, arguments)
    assert again.run(timeout_s=120)
    assert 0 < half < len(scan(running))
    assert unmarked(scan(running, "resumed")) == unmarked(scan(running))
    from_the_beginning = again.log.read_bytes().count(b"from the beginning")
    assert from_the_beginning < PARTITIONS, "it began anew"


def test_what_comes_during_a_rebuild_and_the_switch_is_in_the_new_table(
    running, tmp_path
):
    rebuild = Command(
        "meanwhile",
        tmp_path,
        running.environ,
        ["rebuild_profiles", "--table", "meanwhile"],
    )
    with running.member("live") as live:
        rebuild.start()
        for number in range(20):
            fill(running, updates=100, patients=50, prefix=f"meanwhile-{number % 4}")
        assert rebuild.exit_code(120) == 0
        live.stop()
    new = Stack(running.directory, {**running.environ, "DYNAMODB_TABLE": "meanwhile"})
    with new.member("switched") as switched:
        fill(running, updates=100, patients=50, prefix="switched")
        new.catch_up()
        switched.stop()
    running.catch_up()
    assert unmarked(scan(running, "meanwhile")) == unmarked(scan(running))


def test_a_replay_into_the_live_table_changes_nothing(running):
    before = scan(running)
    admin = AdminClient({"bootstrap.servers": running.bootstrap_servers})
    start = [Place(TOPIC, partition, 0) for partition in range(PARTITIONS)]
    request = [ConsumerGroupTopicPartitions(GROUP, start)]
    admin.alter_consumer_group_offsets(request)[GROUP].result(10)
    running.catch_up()
    assert scan(running) == before
    ends = [Place(TOPIC, partition) for partition in range(PARTITIONS)]
    reader = Consumer(
        {"bootstrap.servers": running.bootstrap_servers, "group.id": GROUP}
    )
    assert min(place.offset for place in reader.committed(ends, timeout=10)) > 0
    reader.close()


def test_a_dead_letter_that_is_valid_by_now_is_redriven_once(apart):
    patient = "barefoot"
    value = json.dumps({"PatientId": patient, "Shoe": "44"}).encode()
    produce(apart, [(patient.encode(), value), (patient.encode(), b"[")])
    apart.catch_up()
    place = letters(apart)[0]
    assert b"44" not in shown(apart, place)
    assert b'"Shoe": "44"' in shown(apart, place, "--values")
    assert apart.manage("dead_letters", "redrive", "--yes").startswith("0 of 2")

    assert "Nothing was sent" in next_release(apart, "dead_letters", "redrive")
    redriven = next_release(apart, "dead_letters", "redrive", "--yes")
    assert f"{place} redriven as " in redriven
    again = next_release(apart, "dead_letters", "redrive", "--yes")
    assert again.startswith("0 of 1")
    next_release(apart, "consume_profiles", "--until-caught-up")
    assert scan(apart, "apart")[patient]["Shoe"] == {"S": "44"}
    assert "redriven as" in apart.manage("dead_letters", "list")


def letters(engines: Stack) -> list[str]:
    lines = engines.manage("dead_letters", "list").splitlines()
    return [line.split()[0] for line in lines[1:]]


def shown(engines: Stack, place: str, *options: str) -> bytes:
    return engines.manage("dead_letters", "show", place, *options).encode()


def next_release(engines: Stack, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", NEXT_RELEASE, *arguments],
        cwd=Path(MANAGE[1]).parent,
        env=engines.environ,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    ).stdout


LARGEST = 1024 * 1024 + 12 - 73
"""A value that just fits the topic, with a key of one byte (Kafka's default limit)."""


@pytest.mark.parametrize(
    ("size", "config"),
    [(LARGEST, {}), (20_000_000, {"compression.type": "gzip"})],
    ids=["at the limit", "compressed"],
)
def test_what_the_topic_takes_the_dead_letter_topic_keeps(running, size, config):
    before = {*letters(running)}
    value = b"a" * size
    produce(running, [(b"x", value)], **{"message.max.bytes": 100_000_000, **config})
    running.catch_up()
    (place,) = {*letters(running)} - before
    assert f"value: {size} bytes".encode() in shown(running, place)
