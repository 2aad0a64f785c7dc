"""The contenders: the project's processes and its peers'.

In: a Site (engines, a folder). Out: processes to load, whose use of the machine can be
read; None for a peer that can't be built here.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import requests

from benchmarks import builds, usage
from tests.engines.process import Engine, free_port

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benchmarks" / "peers"
ENVIRONMENTS = ROOT / ".venv-bench"
PYTHON = str(ENVIRONMENTS / "requirements/bin/python")
MANAGE = [PYTHON, str(ROOT / "manage.py")]
THREADS = 18


@dataclass(frozen=True)
class Site:
    """Where a contender runs: a folder for its log, its environment, and the broker."""

    directory: Path
    environ: Mapping[str, str]
    kafka: Engine

    def having(self, **environ: str) -> Site:
        """The same with further variables."""
        return replace(self, environ={**self.environ, **environ})

    def manage(self, *arguments: str) -> None:
        """Run a command of ours to its end; raises where it fails."""
        done = subprocess.run(  # noqa: S603 our own command
            [*MANAGE, *arguments],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"{arguments[0]} failed: {done.stderr}")


class Contender(Engine):
    """A process whose use of the machine is measured, its children's included."""

    def __init__(self, name: str, site: Site, command: Sequence[str]) -> None:
        super().__init__(name, site.directory)
        self.environ = site.environ
        self._command = list(command)

    def command(self) -> list[str]:
        return self._command

    def is_ready(self) -> bool:
        return True

    def cpu_s(self) -> float:
        """Seconds of CPU so far."""
        return usage.cpu_s(self.pid)

    def memory_mb(self) -> float:
        """Resident memory."""
        return usage.memory_mb(self.pid)


class Server(Contender):
    """A contender that takes updates over HTTP.

    `many` is its path for arrays; empty: it takes none. `lenient` names the cases of
    contract.py that it accepts although the project refuses them.
    """

    def __init__(
        self,
        name: str,
        site: Site,
        command: Sequence[str],
        many: str = "/patientprofile",
        lenient: Collection[str] = (),
    ) -> None:
        self.port = free_port()
        self.many = many
        self.lenient = lenient
        own = site.having(PORT=str(self.port))
        super().__init__(name, own, [a.format(port=self.port) for a in command])

    def is_ready(self) -> bool:
        """Whether it accepts an update."""
        url = f"http://127.0.0.1:{self.port}/patientprofile"
        try:
            return requests.post(url, json={"PatientId": "first"}, timeout=5).ok
        except (requests.ConnectionError, requests.Timeout):
            return False


class Member(Contender):
    """The project's consumer."""

    def is_ready(self) -> bool:
        """Whether its log names a partition that it was assigned."""
        return re.search(rb"assigned[^\n\d]*\d", self.log.read_bytes()) is not None


def our_server(site: Site, workers: int = 1, name: str = "web") -> Server:
    """The project, as `manage.py serve` runs it."""
    options = ["serve", "--port", "{port}", "--workers", str(workers)]
    return Server(f"{name}-{workers}", site, [*MANAGE, *options])


def naive_server(site: Site, workers: int = 1) -> Server:
    """(a) under gunicorn, with threads and without a log of requests."""
    options = ["--chdir", str(PEERS), "--bind", "127.0.0.1:{port}"]
    options += ["--workers", str(workers), "--log-level", "warning"]
    options += ["--worker-class", "gthread", "--threads", str(THREADS)]
    command = [_binary("naive_django", "gunicorn"), *options, "naive_django"]
    lenient = {"an unknown field", "a number for a name", "a control character"}
    return Server(f"naive-{workers}", site, command, many="", lenient=lenient)


def fastapi_server(site: Site, workers: int = 1) -> Server:
    """(b) under uvicorn."""
    command = _uvicorn("fastapi_aiokafka", workers)
    return Server(f"fastapi-{workers}", site, command, many="/patientprofiles")


def blacksheep_server(site: Site) -> Server:
    """(j) under uvicorn."""
    return Server("blacksheep", site, _uvicorn("blacksheep_aiokafka"), many="")


def _uvicorn(peer: str, workers: int = 1) -> list[str]:
    """With uvloop and httptools, without a log of requests."""
    options = ["--app-dir", str(PEERS), "--port", "{port}", "--workers", str(workers)]
    options += ["--loop", "uvloop", "--http", "httptools"]
    options += ["--no-access-log", "--log-level", "warning"]
    return [_binary(peer, "uvicorn"), *options, f"{peer}:app"]


def go_server(site: Site) -> Server | None:
    """(g)."""
    program = builds.program("gateway")
    return Server("go", site, [str(program)]) if program else None


def rust_server(site: Site) -> Server | None:
    """(i)."""
    program = builds.program("rust/release/gateway")
    return Server("rust", site, [str(program)]) if program else None


def our_consumer(site: Site, name: str = "consumer", root: Path = ROOT) -> Member:
    """The project in this checkout or another, as `manage.py consume_profiles` runs it."""
    return Member(name, site, [PYTHON, str(root / "manage.py"), "consume_profiles"])


def peer_consumer(peer: str, site: Site) -> Contender:
    """(c) or (d)."""
    return Contender(peer, site, _script(peer))


def go_consumer(site: Site) -> Contender | None:
    """(h)."""
    program = builds.program("consumer")
    return Contender("go-consumer", site, [str(program)]) if program else None


def raw(peer: str, site: Site, *arguments: str) -> dict[str, float]:
    """Run (e) or (f) to its end; what it prints of itself."""
    done = subprocess.run(  # noqa: S603 our own command
        [*_script(peer), *arguments],
        env=site.environ,
        check=True,
        stdout=subprocess.PIPE,
        timeout=300,
    )
    printed: dict[str, float] = json.loads(done.stdout)
    return printed


def _script(peer: str) -> list[str]:
    return [_binary(peer, "python"), str(PEERS / f"{peer}.py")]


def _binary(peer: str, name: str) -> str:
    return str(ENVIRONMENTS / peer / "bin" / name)
