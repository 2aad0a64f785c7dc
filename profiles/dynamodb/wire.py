"""The wire: calls of BatchExecuteStatement, as many under way as the caller has ready.

In: statements. Out: for each call one response per statement, or the error that
botocore would raise. Signature, JSON and HTTP are its own, at a fifteenth of botocore's
cost (docs/decisions/0012); credentials, region and endpoint are botocore's.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import mktime_tz, parsedate_tz
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    NoCredentialsError,
    ReadTimeoutError,
)
from botocore.utils import get_environ_proxies

from profiles.dynamodb.answers import (
    MEDIA_TYPE,
    AnswerInvalid,
    Batch,
    Response,
    read_answer,
    read_error,
)
from profiles.dynamodb.client import READ_S, code_of, reading_credentials, session
from profiles.dynamodb.connections import Connections, HttpAnswer, receive, send
from profiles.dynamodb.signature import Target, sign

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import BatchStatementRequestTypeDef

OPERATION = "BatchExecuteStatement"
HEADERS = {"content-type": MEDIA_TYPE, "x-amz-target": f"DynamoDB_20120810.{OPERATION}"}
SKEW_S = 60
"""A clock that is less wrong is right: AWS takes signatures of the last five minutes."""

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


@dataclass(slots=True, repr=False)
class _Exchange:
    """One call, and the connection that it is under way on.

    `kept` is whether an earlier call was answered on this connection. It was signed by
    `credentials` and by a clock that was set by `skew_s`. `reasons` are those for which
    the call was sent again, each once.
    """

    call: Any
    body: bytes
    statements: int
    deadline: float
    connection: socket.socket = field(init=False)
    kept: bool = field(init=False)
    credentials: Credentials = field(init=False)
    skew_s: float = field(init=False)
    reasons: set[str] = field(default_factory=set)

    def is_new(self, reason: str) -> bool:
        """Whether the call was not sent again for this reason before."""
        new = reason not in self.reasons
        self.reasons.add(reason)
        return new


class LeanWire:
    """Calls by requests of our own, all in one thread.

    A call that was sent may be sent again: its writes are idempotent under the fence.
    """

    def __init__(self, url: str, region: str) -> None:
        self._url = url
        self._target = Target.at(url, region)
        self._connections = Connections(url)
        self._credentials: Credentials | None = None
        self._clock_skew_s = 0.0
        self._under_way = selectors.DefaultSelector()

    def run(self, next_call: NextCall[K]) -> Generator[tuple[K, Answer]]:
        try:
            while True:
                for call, statements in iter(next_call, None):
                    error = self._send(_exchange(call, statements))
                    if error is not None:
                        yield call, error
                if not self._under_way.get_map():
                    return
                for exchange in self._ready():
                    answer = self._receive(exchange)
                    if answer is not None:
                        yield exchange.call, answer
        finally:
            for key in [*self._under_way.get_map().values()]:
                self._under_way.unregister(key.fileobj)
                key.data.connection.close()

    def _ready(self) -> Iterator[_Exchange]:
        """Those that have an answer, or else those without time left for one."""
        exchanges = [key.data for key in self._under_way.get_map().values()]
        first = min(exchange.deadline for exchange in exchanges)
        found = self._under_way.select(max(0, first - time.monotonic()))
        now = time.monotonic()
        ready = [key.data for key, _ in found]
        for exchange in ready or [each for each in exchanges if each.deadline <= now]:
            self._under_way.unregister(exchange.connection)
            yield exchange

    def _send(self, exchange: _Exchange) -> Answer | None:
        """An error, or None: the call is under way."""
        try:
            request = self._request(exchange)
            self._connect(exchange)
        except BotoCoreError as error:
            return error
        try:
            send(exchange.connection, request, exchange.deadline)
        except OSError as error:
            return self._lost(exchange, error)
        self._under_way.register(exchange.connection, selectors.EVENT_READ, exchange)
        return None

    def _connect(self, exchange: _Exchange) -> None:
        """On a new connection where the call is sent again."""
        idle = None if exchange.reasons else self._connections.take_idle()
        exchange.kept = idle is not None
        exchange.connection = idle or self._connections.open(exchange.deadline)

    def _receive(self, exchange: _Exchange) -> Answer | None:
        """The answer, or None: the call is under way again."""
        try:
            answer = receive(exchange.connection, exchange.deadline)
        except (OSError, HTTPException) as error:
            return self._lost(exchange, error)
        result = _read(answer, exchange.statements)
        if answer.closes or isinstance(result, AnswerInvalid):
            exchange.connection.close()  # the next answer may be no answer either
        else:
            self._connections.give_back(exchange.connection)
        if isinstance(result, ClientError) and self._may_send_again(
            exchange, code_of(result), answer
        ):
            return self._send(exchange)
        return result

    def _lost(self, exchange: _Exchange, error: Exception) -> Answer | None:
        """A connection that failed. One that was kept may have been closed meanwhile."""
        exchange.connection.close()
        if isinstance(error, TimeoutError):
            self._connections.close()  # a network that drops one drops them all
            return ReadTimeoutError(endpoint_url=self._url)
        if exchange.kept and exchange.is_new("closed"):
            return self._send(exchange)
        return ConnectionClosedError(endpoint_url=self._url)

    def _may_send_again(
        self, exchange: _Exchange, code: str, answer: HttpAnswer
    ) -> bool:
        """Whether the call may succeed with other credentials, or by another clock."""
        if code in _EXPIRED and exchange.is_new("expired"):
            if exchange.credentials is self._credentials:
                self._credentials = None
            return True
        date = parsedate_tz(answer.headers.get("date", ""))
        if code in _SKEWED and date and exchange.is_new("skewed"):
            self._clock_skew_s = mktime_tz(date) - time.time()
            return abs(self._clock_skew_s - exchange.skew_s) > SKEW_S
        return False

    def _request(self, exchange: _Exchange) -> bytes:
        """Signed; raises NoCredentialsError or CredentialRetrievalError."""
        exchange.credentials = self._find_credentials()
        with reading_credentials():
            keys = exchange.credentials.get_frozen_credentials()  # renews what expires
        exchange.skew_s = self._clock_skew_s
        now = time.time() + exchange.skew_s
        headers = sign(self._target, HEADERS, exchange.body, keys, now)
        headers["content-length"] = str(len(exchange.body))
        lines = (f"{name.title()}: {value}\r\n" for name, value in headers.items())
        head = f"POST {self._target.path} HTTP/1.1\r\n{''.join(lines)}\r\n"
        return head.encode("latin-1") + exchange.body

    def _find_credentials(self) -> Credentials:
        if self._credentials is None:
            with reading_credentials():
                self._credentials = session().get_credentials()
        if self._credentials is None:
            raise NoCredentialsError
        return self._credentials


def _exchange(call: Any, statements: Statements) -> _Exchange:
    body = msgspec.json.encode({"Statements": statements})
    return _Exchange(call, body, len(statements), time.monotonic() + READ_S)


def _read(answer: HttpAnswer, statements: int) -> Answer:
    if answer.status != 200:
        return read_error(answer.status, answer.body, OPERATION)
    kind, checksum = map(answer.headers.get, ("content-type", "x-amz-crc32"))
    try:
        batch: Batch = read_answer(OPERATION, kind, checksum, answer.body)
        return batch.of(statements)
    except AnswerInvalid as error:
        return error
