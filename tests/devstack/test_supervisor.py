"""The supervisor of `make run`, with shell scripts as engine, web process and consumer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from devstack import supervisor as supervision
from devstack.process import Command, Process
from devstack.supervisor import Service
from tests.engines.process import wait_until

ROOT = Path(__file__).resolve().parent.parent.parent

# Two processes that write their ids; one that ends by SIGTERM writes its name.
STAND_IN = """
echo $$ >> {name}.pids
sleep 60 & echo $! >> {name}.pids
trap 'echo {name} >> ended; exit 0' TERM
echo "{name} is up"; touch {name}.up
wait
"""

DEAF = STAND_IN.replace("'echo {name} >> ended; exit 0'", "''") + "wait\n" * 9

RUN = """
import os, sys
from pathlib import Path
from devstack import supervisor
from devstack.process import Command
from devstack.supervisor import Interrupted, RunFailed, Supervisor

def stand_in(name, log=None):
    return Command(name, ["/bin/sh", Path(name + ".sh").absolute()], os.environ, log, 2)

def say(line):
    with open("said", "a") as said:
        said.write(line + "\\n")

def drained():
    Path("asked").touch()
    return Path("drained").exists()

def run():
    with Supervisor(say) as supervisor:
        try:
            supervisor.start_engine(stand_in("engine", Path("engine.log").absolute()))
            supervisor.start_service(stand_in("web"))
            supervisor.start_service(stand_in("consumer"))
            supervisor.watch()
        except Interrupted:
            say("interrupted")
        finally:
            supervisor.stop(drained)

supervisor.DRAIN_S = float(os.environ["DRAIN_S"])
try:
    run()
except RunFailed as error:
    sys.exit(str(error))
"""


class Run:
    """A supervisor in a process of its own, with an engine, a web and a consumer."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("engine", "web", "consumer"):
            self.script(name, STAND_IN)
        self.path("drained").touch()

    def script(self, name: str, text: str) -> None:
        self.path(f"{name}.sh").write_text(text.format(name=name))

    def start(self, **environ: str) -> None:
        outer = {k: v for k, v in os.environ.items() if k != "MAKELEVEL"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN],
            cwd=self.directory,
            env={**outer, "PYTHONPATH": str(ROOT), "DRAIN_S": "30", **environ},
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_up(self) -> None:
        up = [self.path(f"{name}.up") for name in ("engine", "web", "consumer")]
        wait_until(lambda: all(path.exists() for path in up), 10, "not all came up")

    def wait_end(self) -> tuple[int, str]:
        _, error = self.process.communicate(timeout=20)
        return self.process.returncode, error

    def path(self, name: str) -> Path:
        return self.directory / name

    def lines(self, name: str) -> list[str]:
        path = self.path(name)
        return path.read_text().splitlines() if path.exists() else []

    def pids(self, *names: str) -> list[int]:
        return [int(pid) for name in names for pid in self.lines(f"{name}.pids")]

    def guard_of(self, name: str) -> int:
        return int(ps("ppid", self.pids(name)[0]))


def ps(what: str, pid: int) -> str:
    command = ["ps", "-o", f"{what}=", "-p", str(pid)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.strip()


def runs(pid: int) -> bool:
    return ps("stat", pid)[:1] not in ("", "Z")


def wait_gone(pids: list[int]) -> None:
    assert pids
    wait_until(lambda: not any(map(runs, pids)), 10, f"some of {pids} still ran")


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path)
    yield run
    run.process.kill()
    run.process.communicate()
    wait_gone(run.pids("engine"))


def test_ctrl_c_ends_the_web_then_the_consumer_then_the_engine(run):
    run.start()
    run.wait_up()
    run.process.send_signal(signal.SIGINT)
    assert run.wait_end() == (0, "")
    assert run.lines("ended") == ["web", "consumer", "engine"]
    wait_gone(run.pids("engine", "web", "consumer"))


def test_output_of_services_goes_on_under_their_names_and_engines_to_a_log(run):
    run.start()
    run.wait_up()
    run.process.terminate()
    run.wait_end()
    assert {"web      | web is up", "consumer | consumer is up"} <= {*run.lines("said")}
    assert run.lines("engine.log") == ["engine is up"]


def test_a_killed_supervisor_leaves_no_process_and_engines_end_cleanly(run):
    run.start()
    run.wait_up()
    run.process.kill()
    wait_gone(run.pids("engine", "web", "consumer"))
    assert "engine" in run.lines("ended")


def test_a_killed_guard_takes_its_processes_along(run):
    run.start()
    run.wait_up()
    pids = run.pids("web")
    os.kill(run.guard_of("web"), signal.SIGKILL)
    wait_gone(pids)


def test_a_dead_service_is_started_again(run):
    run.start()
    run.wait_up()
    os.kill(run.pids("web")[0], signal.SIGKILL)
    wait_until(lambda: len(run.lines("web.pids")) == 4, 10, "web was not restarted")
    assert "web ended with exit code 137: restart in 1 s" in run.lines("said")
    assert not runs(run.pids("web")[1])


def test_a_dead_engine_ends_the_run_and_names_its_log(run):
    run.start()
    run.wait_up()
    os.kill(run.pids("engine")[0], signal.SIGKILL)
    code, error = run.wait_end()
    assert code == 1
    assert "engine ended with exit code 137" in error
    assert str(run.path("engine.log")) in error
    assert not run.path("asked").exists()
    assert run.lines("ended") == ["web", "consumer"]
    wait_gone(run.pids("engine", "web", "consumer"))


def test_the_consumer_goes_on_until_all_accepted_updates_are_applied(run):
    run.path("drained").unlink()
    run.start()
    run.wait_up()
    run.process.terminate()
    wait_until(run.path("asked").exists, 10, "it did not wait for the consumer")
    os.kill(run.pids("consumer")[0], signal.SIGKILL)
    wait_until(lambda: len(run.pids("consumer")) == 4, 10, "it was not restarted")
    assert run.lines("ended") == ["web"]
    run.path("drained").touch()
    assert run.wait_end() == (0, "")
    assert run.lines("ended") == ["web", "consumer", "engine"]


def test_a_consumer_that_does_not_catch_up_fails_the_run_and_its_engines_still_end_cleanly(
    run,
):
    run.path("drained").unlink()
    run.start(DRAIN_S="0.5")
    run.wait_up()
    run.process.terminate()
    code, error = run.wait_end()
    assert code == 1
    assert "the consumer did not apply all accepted updates within" in error
    assert run.lines("ended") == ["web", "consumer", "engine"]


def test_a_process_that_does_not_end_is_killed(run):
    run.script("web", DEAF)
    run.start()
    run.wait_up()
    run.process.terminate()
    assert run.wait_end()[0] == 0
    assert run.lines("ended") == ["consumer", "engine"]
    wait_gone(run.pids("web"))


def test_the_guard_kills_a_process_that_does_not_end(run):
    run.script("web", DEAF)
    run.start()
    run.wait_up()
    run.process.kill()
    wait_gone(run.pids("web"))


def test_a_second_ctrl_c_ends_all_at_once(run):
    run.script("consumer", DEAF)
    run.start()
    run.wait_up()
    run.process.send_signal(signal.SIGINT)
    wait_until(lambda: "web" in run.lines("ended"), 10, "web did not end")
    time.sleep(supervision.SAME_SIGNAL_S)
    run.process.send_signal(signal.SIGINT)
    assert run.wait_end()[0] == 1
    assert run.lines("ended") == ["web"]
    wait_gone(run.pids("engine", "consumer"))


def test_a_signal_that_arrives_twice_is_one(run):
    run.start()
    run.wait_up()
    run.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "interrupted" in run.lines("said"), 10, "it did not stop")
    run.process.send_signal(signal.SIGTERM)
    assert run.wait_end() == (0, "")
    assert run.lines("ended") == ["web", "consumer", "engine"]


def test_a_run_that_make_started_ends_when_make_is_killed(run):
    launcher = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    )
    run.process = subprocess.Popen(
        [sys.executable, "-c", launcher, RUN],
        cwd=run.directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DRAIN_S": "30", "MAKELEVEL": "1"},
        text=True,
    )
    run.wait_up()
    run.process.kill()
    wait_until(lambda: "engine" in run.lines("ended"), 10, "the run went on")
    assert run.lines("ended") == ["web", "consumer", "engine"]
    wait_gone(run.pids("engine", "web", "consumer"))


class Ended(Process):
    """A process that ended after so many seconds."""

    def __init__(self, age_s: float) -> None:
        self.command = Command("web", [], {})
        self._age_s = age_s

    @property
    def age_s(self) -> float:
        return self._age_s

    def exit_code(self) -> int:
        return 3


def announced(ages: list[float], monkeypatch) -> list[str]:
    """What a service says of its restarts if its process runs so long each time."""
    clock, said, processes = count(), list[str](), map(Ended, ages)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    service = Service(lambda: next(processes), said.append)
    while len(said) < len(ages):
        service.tend()
    return [
        line.removeprefix("web ended with exit code 3: restart in ") for line in said
    ]


def test_restarts_come_later_each_time_up_to_half_a_minute(monkeypatch):
    said = announced([0.0] * 8, monkeypatch)
    assert said == ["1 s", "2 s", "4 s", "8 s", "16 s", "30 s", "30 s", "30 s"]


def test_a_minute_of_life_makes_the_next_restart_a_quick_one(monkeypatch):
    assert announced([0.0, 0.0, 60.0, 0.0], monkeypatch) == ["1 s", "2 s", "1 s", "2 s"]
