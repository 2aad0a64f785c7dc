"""The supervisor of `make run`, with stand-ins for the engines and for our processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from patientsite.local import pidfile, stack
from patientsite.local import supervisor as supervision
from patientsite.local.fences import clear_old_fences
from patientsite.local.process import Command, Process
from patientsite.local.supervisor import RunFailed, Service
from tests.engines.process import free_port, wait_until

ROOT = Path(__file__).resolve().parent.parent

# Two processes that tell their ids; a clean end is told to all.
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
from patientsite.local import supervisor
from patientsite.local.process import Command
from patientsite.local.supervisor import Interrupted, RunFailed, Supervisor

def stand_in(name, log=None):
    return Command(name, ["/bin/sh", Path(name + ".sh").absolute()], os.environ, log, 2)

def say(line):
    with open("said", "a") as said:
        said.write(line + "\\n")

def settled():
    Path("asked").touch()
    return Path("settled").exists()

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
            supervisor.stop(settled)

supervisor.WAIT_S = float(os.environ["WAIT_S"])
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
        self.path("settled").touch()

    def script(self, name: str, text: str) -> None:
        self.path(f"{name}.sh").write_text(text.format(name=name))

    def start(self, **environ: str) -> None:
        outer = {k: v for k, v in os.environ.items() if k != "MAKELEVEL"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN],
            cwd=self.directory,
            env={**outer, "PYTHONPATH": str(ROOT), "WAIT_S": "30", **environ},
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
    assert "web ended with exit code 137: again in 1 s" in run.lines("said")
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


def test_the_consumer_goes_on_until_what_was_accepted_is_settled(run):
    run.path("settled").unlink()
    run.start()
    run.wait_up()
    run.process.terminate()
    wait_until(run.path("asked").exists, 10, "nobody asked whether all is settled")
    os.kill(run.pids("consumer")[0], signal.SIGKILL)
    wait_until(lambda: len(run.pids("consumer")) == 4, 10, "it was not restarted")
    assert run.lines("ended") == ["web"]
    run.path("settled").touch()
    assert run.wait_end() == (0, "")
    assert run.lines("ended") == ["web", "consumer", "engine"]


def test_a_run_that_does_not_settle_fails_and_still_ends_its_engines_cleanly(run):
    run.path("settled").unlink()
    run.start(WAIT_S="0.5")
    run.wait_up()
    run.process.terminate()
    code, error = run.wait_end()
    assert code == 1
    assert "what was accepted last was not all applied" in error
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
        env={**os.environ, "PYTHONPATH": str(ROOT), "WAIT_S": "30", "MAKELEVEL": "1"},
        text=True,
    )
    run.wait_up()
    run.process.kill()
    wait_until(lambda: "engine" in run.lines("ended"), 10, "the run went on")
    assert run.lines("ended") == ["web", "consumer", "engine"]
    wait_gone(run.pids("engine", "web", "consumer"))


class Ended(Process):
    """A process that has ended, after so many seconds of life."""

    def __init__(self, lived_s: float) -> None:
        self.command = Command("web", [], {})
        self._lived_s = lived_s

    @property
    def lived_s(self) -> float:
        return self._lived_s

    def exit_code(self) -> int:
        return 3


def announced(lives: list[float], monkeypatch) -> list[str]:
    """What a service says of its restarts, where it lives so long each time."""
    clock, said, processes = count(), list[str](), map(Ended, lives)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    service = Service(lambda: next(processes), said.append)
    while len(said) < len(lives):
        service.tend()
    return [line.removeprefix("web ended with exit code 3: again in ") for line in said]


def test_restarts_come_later_each_time_up_to_half_a_minute(monkeypatch):
    said = announced([0.0] * 8, monkeypatch)
    assert said == ["1 s", "2 s", "4 s", "8 s", "16 s", "30 s", "30 s", "30 s"]


def test_a_minute_of_life_makes_the_next_restart_a_quick_one(monkeypatch):
    assert announced([0.0, 0.0, 60.0, 0.0], monkeypatch) == ["1 s", "2 s", "1 s", "2 s"]


PORTS = stack.Ports(web=3001, kafka=9093, dynamodb=4567)


def test_nothing_inherited_names_a_kafka_or_a_dynamodb():
    inherited = {
        "PATH": "/bin",
        "KAFKA_BOOTSTRAP_SERVERS": "kafka.example.org:9092",
        "KAFKA_CONFIG": '{"sasl.password": "secret"}',
        "KAFKA_TOPIC": "production",
        "DYNAMODB_TABLE": "production",
        "DYNAMODB_ENDPOINT_URL": "",
        "AWS_PROFILE": "production",
        "AWS_SESSION_TOKEN": "token",
    }
    environ = stack.environment(PORTS, inherited)
    assert "production" not in environ.values()
    assert "token" not in environ.values()
    assert environ["PATH"] == "/bin"
    assert environ["KAFKA_BOOTSTRAP_SERVERS"] == "127.0.0.1:9093"
    assert environ["DYNAMODB_ENDPOINT_URL"] == "http://127.0.0.1:4567"
    assert environ["AWS_CONFIG_FILE"] == os.devnull


def test_the_environment_of_a_run_is_its_own_environment():
    environ = stack.environment(PORTS, {"PATH": "/bin"})
    assert stack.Ports.of(environ) == PORTS
    assert stack.environment(PORTS, environ) == environ


def test_ports_are_the_usual_ones_where_no_variable_moves_them():
    assert stack.Ports.of({"PORT": ""}) == stack.Ports(3000, 9092, 4566)


@pytest.mark.parametrize("text", ["web", "0", "65536", "-1", "80.5"])
def test_what_is_no_port_is_refused_by_the_variables_name(text):
    with pytest.raises(RunFailed, match="KAFKA_PORT"):
        stack.Ports.of({"KAFKA_PORT": text})


@pytest.mark.parametrize(
    ("field", "variable"),
    [("web", "PORT"), ("kafka", "KAFKA_PORT"), ("dynamodb", "DYNAMODB_PORT")],
)
@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_a_taken_port_is_named_with_the_variable_that_moves_it(field, variable, host):
    numbers = {name: free_port() for name in ("web", "kafka", "dynamodb")}
    ports = stack.Ports(**numbers)
    with (
        socket.create_server((host, numbers[field])),
        pytest.raises(RunFailed, match=rf"{numbers[field]} is taken.* {variable}="),
    ):
        ports.require_free(web=True)


def test_engines_alone_need_no_port_for_the_web():
    ports = stack.Ports(free_port(), free_port(), free_port())
    with socket.create_server(("127.0.0.1", ports.web)):
        ports.require_free(web=False)


def test_a_pid_file_tells_its_holder_while_it_is_held(tmp_path):
    path = tmp_path / "run.pid"
    assert pidfile.holder(path) is None
    held = pidfile.acquire(path)
    assert held
    assert pidfile.holder(path) is None
    pidfile.publish(held)
    assert pidfile.holder(path) == os.getpid()
    assert pidfile.acquire(path) is None
    held.close()
    assert pidfile.holder(path) is None


def item(dynamodb, settings, patient_id: str) -> dict[str, str]:
    found = dynamodb.get_item(
        TableName=settings.DYNAMODB_TABLE, Key={"PatientId": {"S": patient_id}}
    )["Item"]
    return {name: next(iter(value.values())) for name, value in found.items()}


def test_fences_of_topics_that_are_gone_are_cleared_but_one_and_nothing_else(
    dynamodb, settings
):
    kept = {
        "PatientId": {"S": "1"},
        "LastName": {"S": "Roe"},
        "_fence:new:3": {"N": "7"},
    }
    old = {"_fence:old:0": {"N": "1"}, "_fence:older:11": {"N": "2"}}
    dynamodb.put_item(TableName=settings.DYNAMODB_TABLE, Item={**kept, **old})
    assert clear_old_fences(dynamodb, settings.DYNAMODB_TABLE, "new") == 1
    assert item(dynamodb, settings, "1") == {
        "PatientId": "1",
        "LastName": "Roe",
        "_fence:new:3": "7",
        "_fence:old:0": "1",
    }
    assert clear_old_fences(dynamodb, settings.DYNAMODB_TABLE, "new") == 0


def test_old_fences_of_more_items_than_one_transaction_holds_are_cleared(
    dynamodb, settings
):
    for number in range(103):
        fenced = {"PatientId": {"S": str(number)}, "_fence:old:1": {"N": "5"}}
        fenced["_fence:older:1"] = {"N": "5"}
        dynamodb.put_item(TableName=settings.DYNAMODB_TABLE, Item=fenced)
    assert clear_old_fences(dynamodb, settings.DYNAMODB_TABLE, "new") == 103
    assert item(dynamodb, settings, "102") == {
        "PatientId": "102",
        "_fence:old:1": "5",
    }
