"""Amazon's DynamoDB Local as a process on this machine.

A directory in, an endpoint out; the items in the directory outlive every start, stop
and kill. Knows no table.
"""

from __future__ import annotations

import http.client
from pathlib import Path

from tests.engines.jars import jvm
from tests.engines.process import Engine, free_port

NO_TELEMETRY = "-disableTelemetry"


class DynamoDBLocal(Engine):
    """Amazon's DynamoDB Local; every region and credential sees the same tables."""

    def __init__(self, directory: Path, port: int | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__("dynamodb", directory)
        self.port = port or free_port()
        self.endpoint_url = f"http://127.0.0.1:{self.port}"
        self._data = directory / "dynamodb"
        self._data.mkdir(exist_ok=True)

    def command(self) -> list[str]:
        main = "software.amazon.dynamodb.services.local.main.ServerRunner"
        # It unpacks its native SQLite there and, when killed, leaves it.
        temporary = f"-Djava.io.tmpdir={self._data}"
        where = ["-port", str(self.port), "-dbPath", str(self._data)]
        return [*jvm("dynamodb"), temporary, main, *where, "-sharedDb", NO_TELEMETRY]

    def is_ready(self) -> bool:
        """Whether it answers HTTP at all; to an unsigned request, with a refusal."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/")
            connection.getresponse()
        except (OSError, http.client.HTTPException):
            return False
        else:
            return True
        finally:
            connection.close()
