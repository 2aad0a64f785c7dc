"""The ports of a run, and the environment that all its processes share.

In: the inherited environment. Out: one that points at the embedded engines. It drops
every inherited KAFKA_, DYNAMODB_ and AWS_ variable: a shell that is set up for
production must not receive test data.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from devstack.supervisor import RunFailed

HOST = "127.0.0.1"

# The embedded broker answers a joining member after half its session timeout. With a
# timeout of 2 s the next member's offset queries were never answered.
KAFKA_CONFIG = {"session.timeout.ms": 3000, "heartbeat.interval.ms": 500}

_DROPPED = ("KAFKA_", "DYNAMODB_", "AWS_")


@dataclass(frozen=True)
class Ports:
    """The ports of one run, on the loopback interface."""

    web: int
    kafka: int
    dynamodb: int

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Ports:
        """From PORT, KAFKA_PORT and DYNAMODB_PORT; raises RunFailed if one is invalid."""
        return cls(
            _port(environ, "PORT", 3000),
            _port(environ, "KAFKA_PORT", 9092),
            _port(environ, "DYNAMODB_PORT", 4566),
        )

    def require_free(self, *, web: bool) -> None:
        """Raises RunFailed if a port is taken; the web's port is checked if `web`."""
        needed = {"KAFKA_PORT": self.kafka, "DYNAMODB_PORT": self.dynamodb}
        if web:
            needed["PORT"] = self.web
        for name, port in needed.items():
            if not _is_free(port):
                raise RunFailed(
                    f"port {port} is taken: stop the process that listens on it, or "
                    f"put {name}=<another port> in front of the command"
                )


def environment(ports: Ports, inherited: Mapping[str, str]) -> dict[str, str]:
    """What Django's processes get: these engines and no others."""
    kept = {k: v for k, v in inherited.items() if not k.startswith(_DROPPED)}
    return {
        **kept,
        "PORT": str(ports.web),
        "KAFKA_PORT": str(ports.kafka),
        "KAFKA_BOOTSTRAP_SERVERS": f"{HOST}:{ports.kafka}",
        "KAFKA_CONFIG": json.dumps(KAFKA_CONFIG),
        "DYNAMODB_PORT": str(ports.dynamodb),
        "DYNAMODB_ENDPOINT_URL": f"http://{HOST}:{ports.dynamodb}",
        # ministack separates tables by region and account. The README's scan uses these.
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


def listens(port: int) -> bool:
    """Whether a process accepts connections on the port."""
    with socket.socket() as client:
        return client.connect_ex((HOST, port)) == 0


def _is_free(port: int) -> bool:
    if listens(port):  # macOS allows binding 127.0.0.1 beside a listener on 0.0.0.0
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
