"""The wire: the same answers come to the same through botocore and through ours."""

from __future__ import annotations

import ipaddress
import json
import socket
import ssl
import threading
import time
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError

from profiles.dynamodb import client, connections, wire
from profiles.dynamodb.client import StoreRefused, trouble
from profiles.dynamodb.wire import BotocoreWire, LeanWire
from tests.dynamodb.scripted import Reply, ScriptedServer, error, reply, written
from tests.engines.process import wait_until

STATEMENTS: Any = [{"Statement": "UPDATE", "Parameters": [{"S": "Jöhn"}]}]
GREETING = b"HTTP/1.1 200 OK\r\n"
KIND = b"Content-Type: application/x-amz-json-1.0\r\n"


@pytest.fixture(autouse=True)
def _credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.fixture
def server():
    with ScriptedServer() as server:
        yield server


@pytest.fixture(params=["botocore", "lean"])
def make(request, settings, monkeypatch):
    """Makes one wire, or the other, to a URL. Both wait a second for an answer."""
    for module in (client, wire):
        monkeypatch.setattr(module, "READ_S", 1)

    def make(url):
        settings.DYNAMODB_ENDPOINT_URL = url
        if request.param == "lean":
            made = LeanWire(url, "us-east-1")
            ends.callback(made._connections.close)
            return made
        boto = client.connect()
        ends.callback(boto.close)
        return BotocoreWire(boto)

    with ExitStack() as ends:
        yield make


@pytest.fixture
def lean(server):
    made = LeanWire(server.url, "us-east-1")
    yield made
    made._connections.close()


def calls(*each):
    """What the wire is to run: so many statements a call, all at once."""
    left = [(number, STATEMENTS * count) for number, count in enumerate(each)]
    return lambda: left.pop(0) if left else None


def run(made, *each):
    """The answers, by call."""
    with closing(made.run(calls(*each or (1,)))) as answers:
        return dict(answers)


def verdict(answer):
    """What the writer would make of it."""
    if not isinstance(answer, (BotoCoreError, ClientError)):
        return [(r.error.code, r.error.item) if r.error else "written" for r in answer]
    try:
        return f"later: {trouble('t', answer)}"
    except StoreRefused as refused:
        return f"never: {refused}"


def stall(connection, request):
    with suppress(OSError):
        connection.recv(1)


def trickle(connection, request):
    """The whole answer, byte by byte."""
    with suppress(OSError):
        for byte in written().data:
            connection.sendall(bytes([byte]))
            time.sleep(0.01)


def stream(piece, seconds=3):
    """An answer without an end, in pieces; the server ends it after some seconds."""

    def answer(connection, request):
        until = time.monotonic() + seconds
        with suppress(OSError):
            connection.sendall(GREETING + KIND + b"Transfer-Encoding: chunked\r\n\r\n")
            while time.monotonic() < until:
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            connection.shutdown(socket.SHUT_RDWR)

    return answer


ITEM = {"PatientId": {"S": "1"}, "_fence:t:0": {"N": "7"}, "x": {"NULL": True}}
REFUSED = {"Code": "ConditionalCheckFailed", "Message": "Secret", "Item": ITEM}
NO_ANSWER = "later: the answer is no answer of DynamoDB: "
CLOSED = "later: DynamoDB does not answer (ConnectionClosedError)"
LATE = "later: DynamoDB does not answer (ReadTimeoutError)"
KIND_WRONG = f"{NO_ANSWER}its content type is not application/x-amz-json-1.0"
NO_JSON = f"{NO_ANSWER}it is no JSON object of BatchExecuteStatement"
INCOMPLETE = f"{NO_ANSWER}it has not one response per statement"
GOOD = b'{"Responses":[{"TableName":"t"}]}'

CASES: dict[str, tuple[Any, Any]] = {
    "written": (written(), ["written"]),
    "refused, with the item": (
        reply({"Responses": [{"Error": REFUSED}]}),
        [("ConditionalCheckFailed", ITEM)],
    ),
    "refused, without the item": (
        reply({"Responses": [{"Error": {"Code": "DuplicateItem"}}]}),
        [("DuplicateItem", {})],
    ),
    "in chunks": (
        Reply(
            GREETING + KIND + b"Transfer-Encoding: chunked\r\n\r\n"
            b"5\r\n"
            + GOOD[:5]
            + b"\r\n%x\r\n" % (len(GOOD) - 5)
            + GOOD[5:]
            + b"\r\n0\r\n\r\n"
        ),
        ["written"],
    ),
    "in a chunk of less than nothing": (
        Reply(
            GREETING + KIND + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n", close=True
        ),
        "later: ",
    ),
    "of a length that no memory holds": (
        Reply(GREETING + KIND + b"Content-Length: %d\r\n\r\n" % 2**62, close=True),
        "later: ",
    ),
    "until the connection is closed": (
        Reply(b"HTTP/1.0 200 OK\r\n" + KIND + b"\r\n" + GOOD, close=True),
        ["written"],
    ),
    "after an interim answer": (
        Reply(b"HTTP/1.1 100 Continue\r\n\r\n" + written().data),
        ["written"],
    ),
    "without a checksum": (
        Reply(GREETING + KIND + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD),
        ["written"],
    ),
    "with a charset": (
        written(kind="application/x-amz-json-1.0; charset=utf-8"),
        ["written"],
    ),
    "throttled": (
        error("ThrottlingException"),
        "later: DynamoDB answers Throttling",
    ),
    "throttled by KMS": (
        error("KMSThrottlingException"),
        "later: DynamoDB answers KMSThrottling",
    ),
    "limited": (
        error("LimitExceededException"),
        "later: DynamoDB answers LimitExceeded",
    ),
    "429 without a body": (reply(b"", 429), "later: DynamoDB answers 429"),
    "408 of a balancer": (
        reply(b"<html>", 408, "text/html"),
        "later: DynamoDB answers 408",
    ),
    "500": (
        error("InternalServerError", 500),
        "later: DynamoDB answers InternalServerError",
    ),
    "502 of a balancer": (
        reply(b"<html>", 502, "text/html"),
        "later: DynamoDB answers 502",
    ),
    "503 that is any error": (
        error("Whatever", 503),
        "later: DynamoDB answers Whatever",
    ),
    "access denied": (
        error("AccessDeniedException"),
        "never: DynamoDB refuses table t: AccessDenied",
    ),
    "no such table": (
        error("ResourceNotFoundException"),
        "never: table t does not exist: create it with `python manage.py provision`",
    ),
    "403 of a proxy": (
        reply(b"<html>", 403, "text/html"),
        "never: DynamoDB refuses table t: 403",
    ),
    "an error that names no namespace": (
        reply({"__type": "AccessDeniedException:http://x", "Message": "S"}, 400),
        "never: DynamoDB refuses table t: AccessDenied",
    ),
    "200 that is a page": (reply(b"<html>", kind="text/html"), KIND_WRONG),
    "200 that is JSON of another kind": (
        reply(GOOD, kind="application/json"),
        KIND_WRONG,
    ),
    "200 without a body": (reply(b""), NO_JSON),
    "200 that is a page by another name": (reply(b"<html>"), NO_JSON),
    "200 that is a list": (reply([]), NO_JSON),
    "200 that is no UTF-8": (reply(b'{"Responses":["\xff"]}'), NO_JSON),
    "200 that is nested too deeply": (reply(b'{"x":' + b"[" * 100_000), NO_JSON),
    "200 whose JSON was cut": (reply(GOOD[:-5]), NO_JSON),
    "200 that is empty": (reply({}), NO_JSON),
    "200 with too few responses": (reply({"Responses": []}), INCOMPLETE),
    "200 with too many responses": (written(2), INCOMPLETE),
    "200 whose responses are no objects": (reply({"Responses": [7]}), NO_JSON),
    "200 whose error is no object": (
        reply({"Responses": [{"Error": "x"}]}),
        NO_JSON,
    ),
    "200 whose error has no code": (reply({"Responses": [{"Error": {}}]}), NO_JSON),
    "200 whose checksum is wrong": (
        written(crc32=1),
        f"{NO_ANSWER}its checksum is wrong",
    ),
    "nothing, and closed": (Reply(b"", close=True), CLOSED),
    "half a head": (Reply(GREETING, close=True), KIND_WRONG),
    "half a body": (Reply(written().data[:-3], close=True), "later: "),
    "no HTTP": (Reply(b"SSH-2.0-OpenSSH\r\n\r\n", close=True), CLOSED),
    "too late": (stall, LATE),
}


@pytest.mark.parametrize("name", CASES)
def test_an_answer_comes_to_the_same_on_either_wire(make, server, name):
    action, expected = CASES[name]
    server.script = [action]
    answer = verdict(run(make(server.url))[0])
    assert answer == expected or (expected == "later: " and expected in answer)
    assert len(server.requests) == 1


def test_what_was_sent_is_the_same_on_either_wire(server, settings, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    settings.DYNAMODB_ENDPOINT_URL = f"{server.url}/a/path"
    server.script = [written(), written()]
    boto = client.connect()
    for made in (BotocoreWire(boto), wire.connect(boto)):
        run(made)
    made._connections.close()  # type: ignore[attr-defined]
    boto.close()
    theirs, ours = server.requests
    assert ours.line == theirs.line == "POST /a/path HTTP/1.1"
    assert ours.names <= theirs.names | {"Host"}  # not every proxy ignores their case
    for name in ("host", "content-type", "x-amz-target", "x-amz-security-token"):
        assert ours.headers[name] == theirs.headers[name]
    assert (
        ours.body
        == json.dumps(
            {"Statements": STATEMENTS}, ensure_ascii=False, separators=(",", ":")
        ).encode()
    )


def test_a_connection_is_kept(make, server):
    server.script = [written(), error("ThrottlingException"), written()]
    made = make(server.url)
    for _ in range(3):
        run(made)
    assert [request.connection for request in server.requests] == [1, 1, 1]


def test_a_connection_with_another_calls_answer_is_not_kept(lean, server):
    """Each call would take the answer of the one before it for its own."""
    server.script = [written(2), written()]
    assert verdict(run(lean)[0]) == INCOMPLETE
    assert verdict(run(lean)[0]) == ["written"]
    assert [request.connection for request in server.requests] == [1, 2]


@pytest.mark.parametrize("last", [b"", reply(b"", 408, "text/html").data])
def test_a_connection_that_was_closed_between_calls_costs_none(make, server, last):
    """Some proxies say 408 before they close one that is idle."""
    closed = threading.Event()

    def answer_and_close(connection, request):
        connection.sendall(written().data)
        time.sleep(0.05)
        connection.sendall(last)
        connection.shutdown(socket.SHUT_RDWR)
        closed.set()

    server.script = [answer_and_close, written()]
    made = make(server.url)
    assert verdict(run(made)[0]) == ["written"]
    assert closed.wait(5)
    assert verdict(run(made)[0]) == ["written"]
    assert [request.connection for request in server.requests] == [1, 2]


def test_a_network_that_drops_a_connection_costs_one_call(lean, server, monkeypatch):
    """A firewall forgets connections that were idle, and says nothing."""
    monkeypatch.setattr(wire, "READ_S", 0.3)
    server.script = [written()] * 2
    run(lean, 1, 1)
    server.script = [stall, written()]
    assert verdict(run(lean)[0]) == LATE
    assert verdict(run(lean)[0]) == ["written"]
    assert [request.connection for request in server.requests][-1] == 3


def test_a_call_that_a_closing_connection_took_is_sent_again_once(lean, server):
    """The server closes it as the call arrives: nobody knows whether it was applied."""
    server.script = [written(), Reply(b"", close=True), written()]
    assert verdict(run(lean)[0]) == ["written"]
    assert verdict(run(lean)[0]) == ["written"]
    assert [request.connection for request in server.requests] == [1, 1, 2]
    server.script = [Reply(b"", close=True), Reply(b"", close=True)]
    assert verdict(run(lean)[0]) == CLOSED
    assert len(server.requests) == 5


def test_a_server_that_answers_byte_by_byte_is_given_up_in_time(
    lean, server, monkeypatch
):
    monkeypatch.setattr(wire, "READ_S", 0.3)
    server.script = [trickle]
    assert verdict(run(lean)[0]) == LATE


def test_an_answer_without_an_end_is_given_up_in_time(lean, server, monkeypatch):
    monkeypatch.setattr(wire, "READ_S", 0.3)
    monkeypatch.setattr(connections, "MOST_BYTES", 10**12)
    server.script = [stream(b"x" * 1000)]
    assert verdict(run(lean)[0]) == LATE


def test_an_answer_that_is_too_large_is_given_up(lean, server, monkeypatch):
    monkeypatch.setattr(connections, "MOST_BYTES", 100_000)
    server.script = [stream(b"x" * 10_000, seconds=60)]
    assert verdict(run(lean)[0]) == CLOSED


def test_a_chunk_that_no_memory_holds_is_given_up(lean, server):
    head = GREETING + KIND + b"Transfer-Encoding: chunked\r\n\r\n"
    server.script = [Reply(head + b"%x\r\n" % 2**62 + GOOD, close=True)]
    assert verdict(run(lean)[0]) == CLOSED


def test_an_error_that_is_nested_too_deeply_is_its_status(lean, server):
    server.script = [reply(b'{"x":' + b"[" * 100_000, 500)]
    assert verdict(run(lean)[0]) == "later: DynamoDB answers 500"


def test_calls_that_are_lost_together_do_not_wait_for_each_other(
    lean, server, monkeypatch
):
    """A balancer closes all connections, and the network drops the new ones."""
    monkeypatch.setattr(wire, "READ_S", 0.5)
    arrived = threading.Barrier(4)
    waited: list[float] = []

    def close(connection, request):
        arrived.wait(5)
        connection.shutdown(socket.SHUT_RDWR)

    def drop(address, seconds):
        waited.append(seconds)
        time.sleep(seconds)
        raise TimeoutError

    server.script = [written()] * 4
    run(lean, 1, 1, 1, 1)
    server.script = [close] * 4
    monkeypatch.setattr(connections, "CONNECT_S", 0.4)
    monkeypatch.setattr(socket, "create_connection", drop)
    answers = run(lean, 1, 1, 1, 1)
    assert all(verdict(answer).startswith("later") for answer in answers.values())
    assert sum(waited) <= 0.5


def test_calls_are_under_way_together_and_answered_in_any_order(lean, server):
    arrived = threading.Barrier(3)

    def answer(connection, request):
        """The smaller, the later."""
        arrived.wait(5)
        statements = len(json.loads(request.body)["Statements"])
        time.sleep(0.1 * (3 - statements))
        connection.sendall(written(statements).data)

    server.script = [answer] * 3
    with closing(lean.run(calls(1, 2, 3))) as answers:
        order = [(call, len(verdict(each))) for call, each in answers]
    assert order == [(2, 3), (1, 2), (0, 1)]


def test_an_answer_makes_room_for_the_next_call(lean, server):
    """As the writer's window has it: two at a time, of five."""
    under_way: set[int] = set()
    most, left = 0, [*range(5)]
    server.script = [written()] * 5

    def next_call():
        nonlocal most
        if not left or len(under_way) == 2:
            return None
        under_way.add(left[0])
        most = max(most, len(under_way))
        return left.pop(0), STATEMENTS

    with closing(lean.run(next_call)) as answers:
        for call, _ in answers:
            under_way.remove(call)
    assert (most, left, under_way) == (2, [], set())
    assert {request.connection for request in server.requests} == {1, 2}


def test_the_answer_to_a_call_that_was_given_up_is_no_answer_to_the_next(lean, server):
    server.script = [written(), lambda *_: None, written()]
    with closing(lean.run(calls(1, 1))) as answers:
        next(answers)
        wait_until(lambda: len(server.requests) == 2, 5, "the call did not arrive")
    assert verdict(run(lean)[0]) == ["written"]
    _, given_up, last = (request.connection for request in server.requests)
    assert given_up != last


class FakeSession:
    """Other credentials each time; `found` are those that were handed out."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def get_credentials(self):
        self.found.append(f"key-{len(self.found)}")
        return Credentials(self.found[-1], "secret")


def keys(server):
    return [
        request.headers["authorization"].partition("Credential=")[2].partition("/")[0]
        for request in server.requests
    ]


def test_credentials_that_expire_in_mid_batch_are_renewed_once(
    lean, server, monkeypatch
):
    found = FakeSession()
    monkeypatch.setattr(wire, "session", lambda: found)
    expired = error("ExpiredTokenException")
    server.script = [expired, expired, written(), written()]
    answers = run(lean, 1, 1)
    assert [verdict(answer) for answer in answers.values()] == [["written"]] * 2
    assert found.found == ["key-0", "key-1"]
    assert sorted(keys(server)) == ["key-0", "key-0", "key-1", "key-1"]


def test_credentials_that_stay_expired_stop_the_writer(lean, server):
    server.script = [error("ExpiredTokenException")] * 2
    assert verdict(run(lean)[0]) == "never: DynamoDB refuses table t: ExpiredToken"


def test_a_clock_that_is_wrong_is_set_by_the_answer(lean, server):
    """DynamoDB takes signatures of the last five minutes."""
    ahead = time.time() + 3600
    server.script = [error("InvalidSignatureException", date=ahead), written()]
    assert verdict(run(lean)[0]) == ["written"]
    first, second = (
        datetime.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ")
        for request in server.requests
    )
    assert timedelta(seconds=3590) < second - first < timedelta(seconds=3610)


def test_a_clock_that_is_wrong_stops_none_of_the_calls_under_way(lean, server):
    """All of them were signed by it; the first answer sets it for the others too."""
    wrong = error("InvalidSignatureException", date=time.time() + 3600)
    arrived = threading.Barrier(3)

    def refuse(connection, request):
        arrived.wait(5)
        connection.sendall(wrong.data)

    server.script = [*[refuse] * 3, *[written()] * 3]
    answers = run(lean, 1, 1, 1)
    assert [verdict(answer) for answer in answers.values()] == [["written"]] * 3


def test_a_signature_that_is_wrong_at_the_right_time_stops_the_writer(lean, server):
    server.script = [error("InvalidSignatureException")]
    assert verdict(run(lean)[0]) == "never: DynamoDB refuses table t: InvalidSignature"


def test_an_address_of_ipv6_is_taken(make):
    try:
        server = ScriptedServer(family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with server:
        server.script = [written()]
        assert verdict(run(make(server.url))[0]) == ["written"]
        assert server.requests[0].headers["host"] == server.host


def test_a_server_that_is_away_is_waited_for(make):
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    answer = verdict(run(make(f"http://127.0.0.1:{port}"))[0])
    assert answer == "later: DynamoDB does not answer (EndpointConnectionError)"


def test_a_name_that_is_unknown_is_waited_for(make):
    answer = verdict(run(make("http://nowhere.invalid:1"))[0])
    assert answer == "later: DynamoDB does not answer (EndpointConnectionError)"


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of localhost that signed itself, with its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    alternatives = x509.SubjectAlternativeName([x509.DNSName("localhost"), address])
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(datetime.now(UTC) - timedelta(hours=1))
        .not_valid_after(datetime.now(UTC) + timedelta(hours=1))
        .add_extension(alternatives, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    path.write_bytes(secret + builder.sign(key, hashes.SHA256()).public_bytes(pem))
    return path


@pytest.fixture
def https(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ScriptedServer(context) as server:
        yield server


def test_a_certificate_that_nobody_vouches_for_is_refused(make, https):
    answer = verdict(run(make(https.url))[0])
    assert answer == "later: DynamoDB does not answer (SSLError)"
    assert https.requests == []


@pytest.mark.parametrize("name", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_a_bundle_of_certificates_may_be_named(
    make, https, certificate, monkeypatch, name
):
    monkeypatch.setenv(name, str(certificate))
    https.script = [written(), written()]
    made = make(https.url)
    assert verdict(run(made)[0]) == verdict(run(made)[0]) == ["written"]
    assert [request.connection for request in https.requests] == [1, 1]


def test_a_certificate_of_another_host_is_refused(
    make, https, certificate, monkeypatch
):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    other = https.url.replace("localhost", "127.0.0.2")
    answer = verdict(run(make(other))[0])
    assert "later: DynamoDB does not answer" in answer
    assert https.requests == []


def test_a_bundle_that_is_missing_is_named(monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nowhere.pem")
    with pytest.raises(StoreRefused, match="CA bundle /nowhere.pem can't be read"):
        LeanWire("https://localhost:1", "us-east-1")


# What botocore finds


@pytest.mark.parametrize(
    ("bypassed", "kind"), [("", BotocoreWire), ("127.0.0.1", LeanWire)]
)
def test_behind_a_proxy_botocore_carries_the_calls(
    server, settings, monkeypatch, bypassed, kind
):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, bypassed)
    monkeypatch.setenv("http_proxy", server.url)
    settings.DYNAMODB_ENDPOINT_URL = "http://127.0.0.1:1"
    boto = client.connect()
    made = wire.connect(boto)
    assert isinstance(made, kind)
    if kind is BotocoreWire:
        server.script = [written()]
        assert verdict(run(made)[0]) == ["written"]
        assert server.requests[0].line == "POST http://127.0.0.1:1/ HTTP/1.1"
    boto.close()


def test_credentials_that_can_not_be_read_are_waited_for(lean, server, monkeypatch):
    def fail():
        raise FileNotFoundError("/the/token")

    monkeypatch.setattr(wire, "session", fail)
    assert verdict(run(lean)[0]) == ("later: the AWS credentials can't be read")
    assert server.requests == []


def test_no_credentials_stop_the_writer(lean, monkeypatch):
    monkeypatch.setattr(FakeSession, "get_credentials", lambda _: None)
    monkeypatch.setattr(wire, "session", FakeSession)
    assert verdict(run(lean)[0]) == "never: no AWS credentials: configure them"


def test_connections_are_closed_with_what_is_given_up(lean, server):
    closed = threading.Event()

    def wait(connection, request):
        connection.recv(1)
        closed.set()

    server.script = [written(), wait]
    with closing(lean.run(calls(1, 1))) as answers:
        next(answers)
        wait_until(lambda: len(server.requests) == 2, 5, "the call did not arrive")
    assert closed.wait(5)
