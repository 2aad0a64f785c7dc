"""An HTTP server that answers by a script, as DynamoDB or as what stands before it."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from profiles.dynamodb.answers import MEDIA_TYPE


@dataclass(frozen=True)
class Request:
    """As it came, and on which connection. `names` are those of its headers."""

    connection: int
    line: str
    headers: dict[str, str]
    names: set[str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """Bytes to send, and whether the connection is closed after them."""

    data: bytes
    close: bool = False


Action = Reply | Callable[[socket.socket, Request], None]


def reply(
    body: Any = None,
    status: int = 200,
    kind: str = MEDIA_TYPE,
    crc32: int | None = None,
    date: float | None = None,
    close: bool = False,
) -> Reply:
    """An answer; `body` is JSON, or the bytes themselves."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    checksum = zlib.crc32(data) if crc32 is None else crc32
    head = (
        f"HTTP/1.1 {status} Whatever\r\nContent-Type: {kind}\r\n"
        f"Date: {formatdate(date, usegmt=True)}\r\n"
        f"X-Amz-Crc32: {checksum}\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return Reply(head.encode() + data, close)


def written(statements: int = 1, **options: Any) -> Reply:
    return reply({"Responses": [{"TableName": "t"}] * statements}, **options)


def error(code: str, status: int = 400, **options: Any) -> Reply:
    body = {"__type": f"com.amazon.coral#{code}", "message": "Secret"}
    return reply(body, status, **options)


class ScriptedServer:
    """Answers each request with the next of `script`; keeps what was requested."""

    def __init__(
        self, tls: ssl.SSLContext | None = None, family: int = socket.AF_INET
    ) -> None:
        self.script: list[Action] = []
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._connections = 0
        served = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                served._serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            address_family = family
            daemon_threads = True
            request_queue_size = 64

            def get_request(self) -> tuple[Any, Any]:
                connection, address = self.socket.accept()
                connection.settimeout(10)
                return connection, address

            def finish_request(self, request: Any, client_address: Any) -> None:
                if tls is not None:
                    request = tls.wrap_socket(request, server_side=True)
                super().finish_request(request, client_address)
                request.close()

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A handshake that is refused, a client that leaves."""

        host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        self._server = Server((host, 0), Handler)
        scheme, name = ("https", "localhost") if tls else ("http", host)
        name = f"[{name}]" if ":" in name else name
        self.host = f"{name}:{self._server.server_address[1]}"
        self.url = f"{scheme}://{self.host}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _serve(self, connection: Any) -> None:
        with self._lock:
            self._connections += 1
            number = self._connections
        stream = connection.makefile("rb")
        while (request := _read(stream, number)) is not None:
            with self._lock:
                self.requests.append(request)
                action = self.script.pop(0)
            if not isinstance(action, Reply):
                action(connection, request)
                continue
            connection.sendall(action.data)
            if action.close:
                break
        stream.close()


def _read(stream: Any, connection: int) -> Request | None:
    line = stream.readline().decode().strip()
    if not line:
        return None
    headers, names = {}, set()
    while header := stream.readline().decode("latin-1").strip():
        name, _, value = header.partition(": ")
        headers[name.lower()] = value
        names.add(name)
    body = stream.read(int(headers["content-length"]))
    return Request(connection, line, headers, names, body)
