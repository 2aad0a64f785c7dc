"""The contenders: the project's processes and its peers', and what they use up.

In: a Site (engines, a folder). Out: processes to load, with their CPU time and memory,
those of their children included. Linux only: it reads /proc.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.engines.process import Engine, free_port

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benchmarks" / "peers"
ENVIRONMENTS = ROOT / ".venv-bench"
MANAGE = [str(ENVIRONMENTS / "requirements/bin/python"), str(ROOT / "manage.py")]
TICKS = os.sysconf("SC_CLK_TCK")
THREADS = 18


@dataclass(frozen=True)
class Site:
    """Where a contender runs: the engines, a folder for its log, its environment."""

    directory: Path
    environ: Mapping[str, str]

    def having(self, **environ: str) -> Site:
        """The same with further variables."""
        return Site(self.directory, {**self.environ, **environ})

    def manage(self, *arguments: str) -> None:
        """Run a command of ours to its end; raises where it fails."""
        subprocess.run(  # noqa: S603 our own command
            [*MANAGE, *arguments],
            env=self.environ,
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )


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
        """Seconds of CPU so far, of all processes of its group that run."""
        return sum(int(s[11]) + int(s[12]) for s in self._stats()) / TICKS

    def memory_mb(self) -> float:
        """Resident memory of all processes of its group that run."""
        pages = sum(int(stat[21]) for stat in self._stats())
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def _stats(self) -> Iterator[list[str]]:
        """The fields of /proc/PID/stat after the name, for each process of the group."""
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[2]) == self.pid:
                yield fields


class Server(Contender):
    """A contender that takes updates over HTTP; `many` is its path for arrays."""

    many = "/patientprofile"

    def __init__(self, name: str, site: Site, command: Sequence[str]) -> None:
        self.port = free_port()
        super().__init__(name, site, [a.format(port=self.port) for a in command])

    def is_ready(self) -> bool:
        """Whether it accepts an update."""
        url = f"http://127.0.0.1:{self.port}/patientprofile"
        try:
            return requests.post(url, json={"PatientId": "first"}, timeout=5).ok
        except (requests.ConnectionError, requests.Timeout):
            return False


class Peers(Server):
    """(b): its arrays have a path of their own."""

    many = "/patientprofiles"


class Member(Contender):
    """The project's consumer."""

    def is_ready(self) -> bool:
        """Whether its log tells of partitions."""
        return b"assigned partition" in self.log.read_bytes()


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
    return Server(f"naive-{workers}", site, command)


def fastapi_server(site: Site, workers: int = 1) -> Server:
    """(b) under uvicorn with uvloop and httptools, without a log of requests."""
    options = ["--app-dir", str(PEERS), "--port", "{port}", "--workers", str(workers)]
    options += ["--loop", "uvloop", "--http", "httptools"]
    options += ["--no-access-log", "--log-level", "warning"]
    command = [_binary("fastapi_aiokafka", "uvicorn"), *options, "fastapi_aiokafka:app"]
    return Peers(f"fastapi-{workers}", site, command)


def our_consumer(site: Site, name: str = "consumer") -> Member:
    """The project, as `manage.py consume_profiles` runs it."""
    return Member(name, site, [*MANAGE, "consume_profiles"])


def peer_consumer(peer: str, site: Site) -> Contender:
    """(c) or (d)."""
    return Contender(peer, site, _script(peer))


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
