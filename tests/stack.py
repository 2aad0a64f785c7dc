"""The service as its users run it: real engines, and our commands as processes.

Out: addresses, and processes to start, kill and ask. Imports nothing of the product:
all goes over the wire or through `manage.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import requests

from tests.engines.process import Engine, free_port
from tests.engines.real import DynamoDBLocal, KafkaCluster

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

ROOT = Path(__file__).resolve().parent.parent
MANAGE = [sys.executable, str(ROOT / "manage.py")]
TABLE = TOPIC = "patient-profile"


class Command(Engine):
    """One of our commands, run by `manage.py` or by what stands in for it."""

    def __init__(
        self,
        name: str,
        directory: Path,
        environ: Mapping[str, str],
        arguments: Sequence[str],
        manage: Sequence[str] = MANAGE,
    ) -> None:
        super().__init__(name, directory)
        self.environ = environ
        self._argv = [*manage, *arguments]
        self._said_before = 0

    def command(self) -> list[str]:
        return self._argv

    def start(self) -> None:
        self._said_before = self.log.stat().st_size if self.log.exists() else 0
        super().start()

    def run(self, timeout_s: float) -> bool:
        """Run to the end, or to the kill at the timeout; whether it succeeded."""
        self.start()
        try:
            return self.exit_code(timeout_s) == 0
        finally:
            self.kill()

    def said(self, text: bytes) -> bool:
        """Whether it has said this since its last start."""
        return text in self.log.read_bytes()[self._said_before :]


class Web(Command):
    """The web process, under the production server."""

    def __init__(
        self,
        directory: Path,
        environ: Mapping[str, str],
        name: str = "web",
        manage: Sequence[str] = MANAGE,
        workers: int = 1,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        with_port = {**environ, "PORT": str(self.port)}
        arguments = ["serve", "--workers", str(workers)]
        super().__init__(name, directory, with_port, arguments, manage)

    def is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/readyz", timeout=5).ok
        except (requests.ConnectionError, requests.Timeout):
            return False


class Member(Command):
    """One consumer of the group."""

    def __init__(
        self,
        directory: Path,
        environ: Mapping[str, str],
        name: str,
        manage: Sequence[str] = MANAGE,
    ) -> None:
        super().__init__(name, directory, environ, ["consume_profiles"], manage)

    def is_ready(self) -> bool:
        return self.said(b"assigned")


@dataclass(frozen=True)
class Stack:
    """A pair of engines, provisioned, and the environment that points at them."""

    directory: Path
    environ: Mapping[str, str]

    @property
    def bootstrap_servers(self) -> str:
        return self.environ["KAFKA_BOOTSTRAP_SERVERS"]

    def in_group(self, group_id: str) -> Stack:
        """The same engines, for consumers of a group of their own."""
        return replace(self, environ={**self.environ, "KAFKA_GROUP_ID": group_id})

    def web(self) -> Web:
        return Web(self.directory, self.environ)

    def member(self, name: str = "consumer") -> Member:
        return Member(self.directory, self.environ, name)

    def manage(self, *arguments: str, timeout_s: float = 60) -> str:
        """Run a command to its end; raises where it fails."""
        return subprocess.run(
            [*MANAGE, *arguments],
            env=self.environ,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=timeout_s,
        ).stdout

    def catch_up(self) -> None:
        """Return once the group has applied everything that is on the topic."""
        self.manage("consume_profiles", "--until-caught-up")

    def items(self) -> dict[str, dict[str, str]]:
        """The whole table by PatientId, each attribute as its text."""
        pages = (
            self.dynamodb()
            .get_paginator("scan")
            .paginate(TableName=TABLE, ConsistentRead=True)
        )
        rows = [
            {name: str(next(iter(value.values()))) for name, value in item.items()}
            for page in pages
            for item in page["Items"]
        ]
        return {row["PatientId"]: row for row in rows}

    def dynamodb(self) -> DynamoDBClient:
        return boto3.client(
            "dynamodb",
            endpoint_url=self.environ["DYNAMODB_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )


@contextmanager
def embedded(directory: Path) -> Iterator[Stack]:
    """The engines of `make run`."""
    kafka, dynamodb = free_port(), free_port()
    engines = _Embedded(directory, kafka, dynamodb)
    with engines:
        yield stack_on(directory, f"127.0.0.1:{kafka}", f"http://127.0.0.1:{dynamodb}")


@contextmanager
def real(directory: Path) -> Iterator[Stack]:
    """Apache Kafka and Amazon's DynamoDB Local."""
    with ExitStack() as engines:
        kafka = engines.enter_context(KafkaCluster(directory))
        dynamodb = engines.enter_context(DynamoDBLocal(directory))
        stack = stack_on(directory, kafka.bootstrap_servers, dynamodb.endpoint_url)
        stack.manage("provision")
        yield stack


class _Embedded(Engine):
    def __init__(self, directory: Path, kafka: int, dynamodb: int) -> None:
        super().__init__("embedded", directory)
        ports = {"KAFKA_PORT": str(kafka), "DYNAMODB_PORT": str(dynamodb)}
        self.environ = {**_environ(directory), **ports}

    def command(self) -> list[str]:
        return [*MANAGE, "run_local", "--engines-only"]

    def is_ready(self) -> bool:
        return b"Ready" in self.log.read_bytes()

    def __exit__(self, *_: object) -> None:
        self.stop()


def stack_on(directory: Path, bootstrap_servers: str, endpoint_url: str) -> Stack:
    """A stack on engines that run already."""
    environ = {
        **_environ(directory),
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers,
        "KAFKA_CONFIG": '{"session.timeout.ms": 3000, "heartbeat.interval.ms": 500}',
        "DYNAMODB_ENDPOINT_URL": endpoint_url,
    }
    return Stack(directory, environ)


def _environ(directory: Path) -> dict[str, str]:
    """Ours, less all that could name somebody else's Kafka or DynamoDB.

    Nor is coverage measured there: the service would take half as much CPU again.
    """
    foreign = ("AWS_", "COVERAGE_", "DJANGO_", "DYNAMODB_", "KAFKA_", "PORT")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    return {
        **kept,
        "DJANGO_DEBUG": "1",
        "PYTHONUNBUFFERED": "1",
        "VAR_DIR": str(directory / "var"),
    }
