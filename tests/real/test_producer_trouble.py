"""The web process while Kafka is in trouble: the truth, and in time."""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from threading import Event, Thread

import pytest
import requests

from tests.chaos.observed import Place, read_log
from tests.engines.process import wait_until
from tests.real.scene import Engines, Scene
from tests.stack import Web

pytestmark = pytest.mark.real

ANSWER_S = 5.0
AWAY_S = 8.0
"""Longer than an answer may take."""

RETRY_S = 0.1

numbers = count(1)


@dataclass
class Answered:
    """One request, and what came of it; status 0 where no answer came."""

    seconds: float
    body: dict[str, str] = field(repr=False)
    status: int = 0
    retry_after: str | None = None
    receipt: str = ""


class Client(Thread):
    """Posts one update after the other until it is over, each unlike every other."""

    def __init__(self, port: int, over: Event) -> None:
        super().__init__(daemon=True)
        self.answers: list[Answered] = []
        self._port = port
        self._over = over
        self._connection = self._connect()

    def run(self) -> None:
        while not self._over.is_set():
            if self.post().status != 202:
                self._over.wait(RETRY_S)
        self._connection.close()

    def post(self) -> Answered:
        number = next(numbers)
        body = {"PatientId": f"patient-{number % 20}", "LastName": f"name-{number}"}
        began = time.monotonic()
        answer = self._ask(body)
        answer.seconds = time.monotonic() - began
        self.answers.append(answer)
        return answer

    def _ask(self, body: dict[str, str]) -> Answered:
        headers = {"Content-Type": "application/json"}
        try:
            self._connection.request(
                "POST", "/patientprofile", json.dumps(body), headers
            )
            answer = self._connection.getresponse()
            told = json.loads(answer.read())
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self._connection = self._connect()
            return Answered(0, body)
        retry_after = answer.getheader("Retry-After")
        receipt = told.get("Receipt", "")
        return Answered(0, body, answer.status, retry_after, receipt)

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)


@contextmanager
def load(web: Web, clients: int) -> Iterator[list[Client]]:
    over = Event()
    posting = [Client(web.port, over) for _ in range(clients)]
    for client in posting:
        client.start()
    try:
        yield posting
    finally:
        over.set()
        for client in posting:
            client.join()


@contextmanager
def warm(started: Web) -> Iterator[Web]:
    """One that has delivered: a cluster's first producer waits for its id."""
    with started as web:
        first = requests.post(
            f"{web.url}/patientprofile", json={"PatientId": "first"}, timeout=10
        )
        assert first.status_code == 202
        yield web


def answers(clients: list[Client]) -> list[Answered]:
    return [answer for client in clients for answer in client.answers]


def statuses(clients: list[Client]) -> Counter[int]:
    return Counter(answer.status for answer in answers(clients))


def accepts_again(clients: list[Client]) -> Callable[[], bool]:
    before = statuses(clients)[202]
    return lambda: statuses(clients)[202] > before


def assert_true(scene: Scene, given: list[Answered]) -> None:
    """Every 202 names a record of that key and value; a 503 came in time."""
    log = read_log(scene.stack.bootstrap_servers, scene.topic)
    on_topic = {record.place: (record.key, record.value) for record in log}
    for answer in given:
        if answer.status == 202:
            topic_id, partition, offset = answer.receipt.rsplit(".", 2)
            key, value = on_topic[Place(topic_id, int(partition), int(offset))]
            assert key == answer.body["PatientId"].encode()
            assert json.loads(value or b"") == answer.body
        else:
            assert answer.status == 503
            assert answer.retry_after
    assert max(answer.seconds for answer in given) <= ANSWER_S


def tell(what: str, given: list[Answered]) -> None:
    slowest = max(answer.seconds for answer in given)
    told = Counter(answer.status for answer in given)
    sys.stdout.write(f"\n{what}: {dict(told)}, slowest {slowest:.2f} s\n")


@pytest.fixture(autouse=True)
def whole(shared: Engines) -> Iterator[None]:
    """The broker runs again after each scene."""
    yield
    shared.broker.resume()
    if not shared.broker.running:
        shared.broker.start()
    shared.broker.wait_ready()


def is_alive(web: Web) -> bool:
    try:
        return requests.get(f"{web.url}/livez", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_a_web_process_that_starts_before_kafka_accepts_once_kafka_is_there(
    scene, shared
):
    shared.broker.kill()
    web = scene.web()
    web.start()
    wait_until(lambda: is_alive(web), 30, "the web process did not serve")
    with load(web, 4) as clients:
        wait_until(lambda: statuses(clients)[503] > 20, 30, "nothing was refused")
        assert statuses(clients).keys() == {503}
        shared.broker.start()
        shared.broker.wait_ready()
        back = time.monotonic()
        wait_until(accepts_again(clients), 30, "nothing was accepted")
        recovered = time.monotonic() - back
    tell(f"Kafka late, 202 after {recovered:.1f} s", answers(clients))
    assert_true(scene, answers(clients))


@pytest.mark.parametrize("fault", ["killed", "suspended", "stopped"])
def test_kafka_goes_and_comes_back_under_load(scene, shared, fault):
    broker = shared.broker
    harm = {
        "killed": broker.kill,
        "suspended": broker.suspend,
        "stopped": broker.stop,
    }[fault]
    with scene.web() as web, load(web, 24) as clients:
        wait_until(accepts_again(clients), 30, "nothing was accepted")
        harm()
        time.sleep(AWAY_S)
        if fault == "suspended":
            broker.resume()
        else:
            broker.start()
            broker.wait_ready()
        back = time.monotonic()
        wait_until(accepts_again(clients), 30, "nothing was accepted again")
        recovered = time.monotonic() - back
    given = answers(clients)
    tell(f"Kafka {fault}, 202 again after {recovered:.1f} s", given)
    assert statuses(clients).keys() == {202, 503}
    assert_true(scene, given)


@pytest.mark.parametrize(
    ("away_s", "there_s", "times"),
    [(1.5, 0.2, 5), (0.3, 0.05, 30)],
    ids=["fits and starts", "slow"],
)
def test_a_kafka_that_is_slow_gets_true_answers(scene, shared, away_s, there_s, times):
    with scene.web() as web, load(web, 24) as clients:
        wait_until(accepts_again(clients), 30, "nothing was accepted")
        for _ in range(times):
            shared.broker.suspend()
            time.sleep(away_s)
            shared.broker.resume()
            time.sleep(there_s)
    tell(f"Kafka away for {away_s} s and there for {there_s} s", answers(clients))
    assert_true(scene, answers(clients))


def test_the_probes_answer_within_a_second_while_64_connections_wait(scene, shared):
    with warm(scene.web()) as web, load(web, 64) as clients:
        wait_until(accepts_again(clients), 30, "nothing was accepted")
        shared.broker.suspend()
        slowest: dict[str, float] = {}
        until = time.monotonic() + AWAY_S
        while time.monotonic() < until:
            for probe in ("livez", "readyz"):
                began = time.monotonic()
                requests.get(f"{web.url}/{probe}", timeout=10)
                took = time.monotonic() - began
                slowest[probe] = max(took, slowest.get(probe, 0))
        shared.broker.resume()
        wait_until(accepts_again(clients), 30, "nothing was accepted again")
    sys.stdout.write(f"\nprobes: {slowest}\n")
    tell("64 connections", answers(clients))
    assert max(slowest.values()) < 1
    assert_true(scene, answers(clients))


def test_sigterm_under_load_answers_every_request_that_was_taken(scene):
    with scene.web() as web, load(web, 24) as clients:
        wait_until(lambda: statuses(clients)[202] > 500, 60, "no load")
        began = time.monotonic()
        web.terminate()
        assert web.exit_code(15) == 0
        took = time.monotonic() - began
    tell(f"web SIGTERM, ended after {took:.1f} s", answers(clients))
    given = [answer for answer in answers(clients) if answer.status]
    assert_true(scene, given)
    log = read_log(scene.stack.bootstrap_servers, scene.topic)
    on_topic = {record.value for record in log}
    unanswered = [answer.body for answer in answers(clients) if not answer.status]
    published = {json.loads(value or b"")["LastName"] for value in on_topic}
    assert not published & {body["LastName"] for body in unanswered}


class Workers(Web):
    """Two worker processes."""

    def command(self) -> list[str]:
        return [*super().command(), "--workers", "2"]


def test_each_of_two_workers_publishes(scene):
    with (
        Workers(scene.stack.directory, scene.stack.environ) as web,
        load(web, 24) as clients,
    ):
        wait_until(lambda: statuses(clients)[202] > 500, 60, "no load")
    assert statuses(clients).keys() == {202}
    assert_true(scene, answers(clients))


def test_a_reload_under_load_makes_new_workers_that_publish(scene):
    """SIGHUP has the server put new workers in the place of the old ones."""
    started = b"Started worker-"
    with (
        Workers(scene.stack.directory, scene.stack.environ) as web,
        load(web, 24) as clients,
    ):
        wait_until(accepts_again(clients), 30, "no load")
        os.kill(web.pid, signal.SIGHUP)
        wait_until(
            lambda: web.log.read_bytes().count(started) >= 4, 60, "no new workers"
        )
        wait_until(accepts_again(clients), 30, "nothing was accepted again")
    given = [answer for answer in answers(clients) if answer.status]
    tell("reload", given)
    assert_true(scene, given)


def test_a_broker_whose_disk_is_full_is_refused_and_returned_to(scene, shared):
    """Every write fails as on a full disk; Kafka then ends itself."""
    member = scene.joined()
    with scene.web() as web, load(web, 8) as clients:
        wait_until(accepts_again(clients), 30, "nothing was accepted")
        resource.prlimit(shared.broker.pid, resource.RLIMIT_FSIZE, (4096, 4096))
        assert shared.broker.exit_code(30) is not None
        wait_until(lambda: statuses(clients)[503] > 0, 30, "nothing was refused")
        shared.broker.start()
        shared.broker.wait_ready()
        wait_until(accepts_again(clients), 30, "nothing was accepted again")
    tell("disk full", answers(clients))
    assert_true(scene, answers(clients))
    scene.settle()
    assert member.running
    scene.assert_sound()
