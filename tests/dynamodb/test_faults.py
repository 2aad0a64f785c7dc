"""Faults of the network between the writer and the table: no update is lost or undone."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from profiles.core import items
from profiles.dynamodb import wire
from profiles.dynamodb.wire import LeanWire
from profiles.dynamodb.writer import TableWriter
from tests.dynamodb.scripted import Request, ScriptedServer, error, reply
from tests.fakes import OURS, FakeDynamoDB, update_at

PATIENTS = 200
FAULTS = ("lost", "unanswered", "late", "cut", "page", "throttled", "broken")


class FaultyTable:
    """A table behind a network: each call may meet a fault, before or after it lands."""

    def __init__(self, seed: int) -> None:
        self.table = FakeDynamoDB()
        self.met: Counter[str] = Counter()
        self._draw = random.Random(seed)
        self._lock = threading.Lock()

    def pop(self, _index: int) -> Any:
        """As a script: the next action."""
        return self._answer

    def _answer(self, connection: socket.socket, request: Request) -> None:
        with self._lock:
            fault = self._draw.choice((*FAULTS, *["none"] * len(FAULTS)))
            self.met[fault] += 1
            if fault in ("lost", "page", "throttled", "broken"):
                body = b""
            else:
                body = self._execute(request.body)
        self._send(connection, fault, body)

    def _execute(self, body: bytes) -> bytes:
        statements = json.loads(body)["Statements"]
        answer = self.table.batch_execute_statement(Statements=statements)
        return reply(answer).data

    def _send(self, connection: socket.socket, fault: str, body: bytes) -> None:
        answers = {
            "none": body,
            "late": body,
            "cut": body[: len(body) // 2],
            "page": reply(b"<html>", kind="text/html").data,
            "throttled": error("ThrottlingException").data,
            "broken": reply(b"<html>", 502, "text/html").data,
        }
        if fault == "late":
            time.sleep(0.15)
        with suppress(OSError):  # the client has given it up
            connection.sendall(answers.get(fault, b""))
            if fault in ("lost", "unanswered", "cut"):
                connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_network_does_every_update_takes_effect_in_order(
    monkeypatch, seed
):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(wire, "READ_S", 0.1)
    faulty: Any = FaultyTable(seed)
    with ExitStack() as ends:
        server = ends.enter_context(ScriptedServer())
        server.script = faulty
        carried = LeanWire(server.url, "us-east-1")
        ends.callback(carried._connections.close)
        table = TableWriter(faulty.table, "t", carried)
        for offset, field in enumerate(("FirstName", "LastName", "FirstName")):
            updates: Any = [
                update_at(offset, str(patient), **{field: f"{field}-{offset}"})
                for patient in range(PATIENTS)
            ]
            apply_all(table, updates)
    shown = [items.profile(item) for item in faulty.table.items.values()]
    assert len(shown) == PATIENTS
    names = {(profile["FirstName"], profile["LastName"]) for profile in shown}
    assert names == {("FirstName-2", "LastName-1")}
    assert len(faulty.met) > len(FAULTS) / 2


def apply_all(table: TableWriter, updates: Any) -> None:
    done = 0
    total = len(updates)
    while updates:
        outcome = table.apply(updates, OURS)
        done += outcome.applied + outcome.already
        updates = outcome.remaining
        assert done + len(updates) == total
