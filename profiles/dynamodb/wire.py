"""The wire: calls of BatchExecuteStatement, as many under way as the caller has ready.

In: statements. Out: for each call one response per statement, or the error that
botocore would raise. Signature, JSON and HTTP are its own, which costs a fifteenth of
botocore's (docs/decisions/0012); credentials, region and endpoint are botocore's.
"""

from __future__ import annotations

import http.client
import io
import os
import select
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

import botocore.session
import msgspec
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
    SSLError,
)
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from profiles.dynamodb.answers import (
    MEDIA_TYPE,
    AnswerInvalid,
    Batch,
    Response,
    read_answer,
    read_error,
)
from profiles.dynamodb.client import (
    CONNECT_S,
    READ_S,
    StoreRefused,
    code_of,
    reading_credentials,
    session,
)
from profiles.dynamodb.signature import Target, sign

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import BatchStatementRequestTypeDef

OPERATION = "BatchExecuteStatement"
HEADERS = {"content-type": MEDIA_TYPE, "x-amz-target": f"DynamoDB_20120810.{OPERATION}"}
SKEW_S = 60
_EXPIRED = {"ExpiredToken", "UnrecognizedClient"}
_SKEWED = {"InvalidSignature", "RequestExpired", "RequestTimeTooSkewed"}


K = TypeVar("K")
Statements = Sequence["BatchStatementRequestTypeDef"]
Answer = Sequence[Response] | BotoCoreError | ClientError
NextCall = Callable[[], tuple[K, Statements] | None]
"""The next call, under the caller's own name for it; None: none at present."""


class Wire(Protocol):
    """Carries calls, and yields each answer as it comes.

    It takes calls until there are none at present, again after each answer, and ends
    when none is under way.
    """

    def run(self, next_call: NextCall[K]) -> Generator[tuple[K, Answer]]: ...


def connect(client: DynamoDBClient) -> Wire:
    """The lean wire to this client's endpoint; behind a proxy, botocore's."""
    url = client.meta.endpoint_url
    if get_environ_proxies(url).get(urlsplit(url).scheme):
        return BotocoreWire(client)
    return LeanWire(url, client.meta.region_name)


class BotocoreWire:
    """The same calls by botocore's client, one at a time."""

    def __init__(self, client: DynamoDBClient) -> None:
        self._client = client

    def run(self, next_call: NextCall[K]) -> Generator[tuple[K, Answer]]:
        while (call := next_call()) is not None:
            yield call[0], self._execute(call[1])

    def _execute(self, statements: Statements) -> Answer:
        try:
            answer = self._client.batch_execute_statement(Statements=statements)
            return msgspec.convert(answer, Batch).of(len(statements))
        except (BotoCoreError, ClientError) as error:
            return error


@dataclass(slots=True)
class _Exchange:
    """One call, and the connection that it is under way on.

    `kept` is whether an earlier call was answered on this connection. `mended` names
    the reasons for which the call was sent again.
    """

    call: Any
    body: bytes
    statements: int
    deadline: float
    connection: socket.socket = field(init=False)
    kept: bool = field(init=False)
    credentials: Credentials = field(init=False)
    mended: set[str] = field(default_factory=set)

    def may_mend(self, reason: str) -> bool:
        """Whether the call was not sent again for this reason yet; then it was."""
        new = reason not in self.mended
        self.mended.add(reason)
        return new


class LeanWire:
    """Connections to one endpoint, each with one call under way at most. One thread.

    A call that was sent may be sent again: its writes are idempotent under the fence.
    """

    def __init__(self, url: str, region: str) -> None:
        self._url = url
        self._target = Target.at(url, region)
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        self._address = parts.hostname or "", parts.port or (443 if tls else 80)
        self._tls = _tls() if tls else None
        self._idle: list[socket.socket] = []
        self._credentials: Credentials | None = None
        self._clock_skew_s = 0.0

    def run(self, next_call: NextCall[K]) -> Generator[tuple[K, Answer]]:
        with selectors.DefaultSelector() as under_way:
            try:
                while True:
                    for call, statements in iter(next_call, None):
                        body = msgspec.json.encode({"Statements": statements})
                        deadline = time.monotonic() + READ_S
                        exchange = _Exchange(call, body, len(statements), deadline)
                        error = self._send(exchange, under_way)
                        if error is not None:
                            yield call, error
                    if not under_way.get_map():
                        return
                    for exchange in _answered(under_way):
                        if answer := self._receive(exchange, under_way):
                            yield exchange.call, answer
            finally:
                for key in under_way.get_map().values():
                    key.data.connection.close()

    def _send(
        self, exchange: _Exchange, under_way: selectors.BaseSelector
    ) -> Answer | None:
        """An error, or None: the call is under way."""
        try:
            request = self._request(exchange)
            exchange.connection, exchange.kept = self._connection(exchange)
        except BotoCoreError as error:
            return error
        try:
            exchange.connection.settimeout(READ_S)
            exchange.connection.sendall(request)
        except OSError as error:
            return self._lost(exchange, error, under_way)
        under_way.register(exchange.connection, selectors.EVENT_READ, exchange)
        return None

    def _receive(
        self, exchange: _Exchange, under_way: selectors.BaseSelector
    ) -> Answer | None:
        """The answer, or None: the call is under way again."""
        timed: Any = _Timed(exchange.connection, exchange.deadline)
        response = http.client.HTTPResponse(timed, method="POST")
        try:
            response.begin()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            return self._lost(exchange, error, under_way)
        if response.will_close:
            exchange.connection.close()
        else:
            self._idle.append(exchange.connection)
        if response.status != 200:
            refusal = read_error(response.status, body, OPERATION)
            if self._is_mended(exchange, refusal, response.headers.get("date")):
                return self._send(exchange, under_way)
            return refusal
        try:
            kind, checksum = map(response.headers.get, ("content-type", "x-amz-crc32"))
            batch: Batch = read_answer(OPERATION, kind, checksum, body)
            return batch.of(exchange.statements)
        except AnswerInvalid as error:
            return error

    def _lost(
        self,
        exchange: _Exchange,
        error: Exception,
        under_way: selectors.BaseSelector,
    ) -> Answer | None:
        """A connection that failed. One that was kept may have been closed meanwhile."""
        exchange.connection.close()
        if isinstance(error, TimeoutError):
            return ReadTimeoutError(endpoint_url=self._url)
        if exchange.kept and exchange.may_mend("closed"):
            return self._send(exchange, under_way)
        return ConnectionClosedError(endpoint_url=self._url)

    def _is_mended(
        self, exchange: _Exchange, error: ClientError, date: str | None
    ) -> bool:
        """Whether the call may succeed with other credentials, or another clock."""
        code = code_of(error)
        if code in _EXPIRED and exchange.may_mend("expired"):
            if exchange.credentials is self._credentials:
                self._credentials = None
            return True
        if code in _SKEWED and date and exchange.may_mend("skewed"):
            skew_s = parsedate_to_datetime(date).timestamp() - time.time()
            before_s, self._clock_skew_s = self._clock_skew_s, skew_s
            return abs(skew_s - before_s) > SKEW_S
        return False

    def _request(self, exchange: _Exchange) -> bytes:
        """Signed; raises NoCredentialsError or CredentialRetrievalError."""
        exchange.credentials = self._find_credentials()
        with reading_credentials():
            keys = exchange.credentials.get_frozen_credentials()  # renews what expires
        now = time.time() + self._clock_skew_s
        headers = sign(self._target, HEADERS, exchange.body, keys, now)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        size = f"content-length: {len(exchange.body)}\r\n"
        head = f"POST {self._target.path} HTTP/1.1\r\n{lines}{size}\r\n"
        return head.encode("latin-1") + exchange.body

    def _find_credentials(self) -> Credentials:
        if self._credentials is None:
            with reading_credentials():
                self._credentials = session().get_credentials()
        if self._credentials is None:
            raise NoCredentialsError
        return self._credentials

    def _connection(self, exchange: _Exchange) -> tuple[socket.socket, bool]:
        """One that is idle, unless the call is sent again; else a new one."""
        while self._idle and not exchange.mended:
            connection = self._idle.pop()
            if not _has_news(connection):
                return connection, True
            connection.close()
        try:
            return self._open(), False
        except TimeoutError:
            raise ConnectTimeoutError(endpoint_url=self._url) from None
        except ssl.SSLError as error:
            raise SSLError(endpoint_url=self._url, error=error) from None
        except OSError:
            raise EndpointConnectionError(endpoint_url=self._url) from None

    def _open(self) -> socket.socket:
        connection = socket.create_connection(self._address, CONNECT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is None:
            return connection
        try:
            return self._tls.wrap_socket(connection, server_hostname=self._address[0])
        except OSError:
            connection.close()
            raise


class _Timed(io.RawIOBase):
    """A connection, read until a deadline: its own time-out begins anew at each byte."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self._deadline - time.monotonic()
        self._connection.settimeout(max(left_s, 0.001))
        return self._connection.recv_into(buffer)


def _answered(under_way: selectors.BaseSelector) -> Iterator[_Exchange]:
    """Takes out those that have an answer, or no more time for one."""
    exchanges = [key.data for key in under_way.get_map().values()]
    first = min(exchange.deadline for exchange in exchanges)
    ready = [key.data for key, _ in under_way.select(max(0, first - time.monotonic()))]
    if not ready:
        now = time.monotonic()
        ready = [exchange for exchange in exchanges if exchange.deadline <= now]
    for exchange in ready:
        under_way.unregister(exchange.connection)
        yield exchange


def _has_news(connection: socket.socket) -> bool:
    """Whether an idle connection was closed, or has an answer to no call of ours."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _tls() -> ssl.SSLContext:
    """Verifies AWS's certificate by the bundle that botocore would use."""
    configured = botocore.session.get_session().get_config_variable("ca_bundle")
    bundle = configured or os.environ.get("REQUESTS_CA_BUNDLE") or get_cert_path(True)
    try:
        return ssl.create_default_context(cafile=bundle)
    except OSError:
        raise StoreRefused(f"the CA bundle {bundle} can't be read") from None
