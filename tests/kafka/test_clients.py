"""Connections: what is configured reaches the clients, each of which takes its own."""

from __future__ import annotations

import base64
import time
from threading import get_ident
from urllib.parse import parse_qs, urlsplit

import pytest
from confluent_kafka import KafkaError, Message, Producer

from profiles.core import records
from profiles.kafka import clients

REGION = "eu-central-1"
KINDS = {
    "producer": clients.producer,
    "dead-letter producer": clients.dead_letter_producer,
    "consumer": lambda: clients.consumer(lambda error, partitions: None),
    "group reader": clients.group_reader,
    "admin": clients.admin,
}
kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())


@pytest.fixture(autouse=True)
def nobody_listens(settings):
    """On port 1, and no other process is given it at random."""
    settings.KAFKA_BOOTSTRAP_SERVERS = "127.0.0.1:1"


@pytest.fixture
def msk(settings, monkeypatch):
    """MSK is to know us by a key of AWS; gives what signs the tokens.

    Us alone: what a page of another test reads in the background signs none.
    """
    name = "aws_msk_iam_sasl_signer.MSKAuthTokenProvider"
    signer = pytest.importorskip(name, reason="the extra `msk` is not installed")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    settings.KAFKA_MSK_IAM_REGION = REGION
    us, known = get_ident(), clients._msk_iam
    monkeypatch.setattr(
        clients, "_msk_iam", lambda: known() if get_ident() == us else {}
    )
    return signer


@kinds
def test_every_client_has_its_token_for_msk_without_being_polled(
    make, msk, monkeypatch
):
    signed = []
    sign = msk.generate_auth_token

    def signing(region):
        signed.append(sign(region))
        return signed[-1]

    monkeypatch.setattr(msk, "generate_auth_token", signing)
    assert make() is not None  # librdkafka waits in there for the token
    [(token, _)] = signed
    address = urlsplit(base64.urlsafe_b64decode(token + "===").decode())
    asked = parse_qs(address.query)
    assert address.hostname == f"kafka.{REGION}.amazonaws.com"
    assert asked["Action"] == ["kafka-cluster:Connect"]
    assert asked["X-Amz-Credential"][0].startswith("AKIAEXAMPLE/")


def test_the_token_s_end_is_told_in_seconds(msk):
    _, expires_at = clients._kafka(())["oauth_cb"](None)
    assert 0 < expires_at - time.time() <= 900


def test_msk_is_spoken_to_by_tls_alone(msk):
    configured = clients._kafka(())
    assert configured["security.protocol"] == "SASL_SSL"
    assert configured["sasl.mechanism"] == "OAUTHBEARER"


def test_a_token_that_can_t_be_signed_is_told_of_without_the_reason(
    msk, monkeypatch, caplog
):
    def refusing(region):
        raise ValueError("the key AKIAEXAMPLE")

    monkeypatch.setattr(msk, "generate_auth_token", refusing)
    with pytest.raises(ValueError, match="the key"):
        clients._kafka(())["oauth_cb"](None)
    assert "no token can be signed: ValueError" in caplog.text
    assert "AKIAEXAMPLE" not in caplog.text


def test_elsewhere_no_token_is_asked_for(settings):
    settings.KAFKA_MSK_IAM_REGION = ""
    assert "oauth_cb" not in clients._kafka(())


@kinds
@pytest.mark.parametrize(
    "properties",
    [
        {"security.protocol": "SSL", "ssl.endpoint.identification.algorithm": "https"},
        {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": "web",
            "sasl.password": "secret",
        },
        {
            "linger.ms": 5,
            "compression.type": "zstd",
            "session.timeout.ms": 60000,
            "group.instance.id": "consumer-0",
        },
    ],
    ids=["TLS", "SCRAM", "of one kind only"],
)
def test_every_client_takes_what_kafka_config_may_hold(make, properties, settings):
    settings.KAFKA_CONFIG = properties
    assert make() is not None


def test_kip_848_takes_no_session_timeout_of_ours(settings):
    settings.KAFKA_GROUP_PROTOCOL = "consumer"
    settings.KAFKA_CONFIG = {"session.timeout.ms": 60000, "heartbeat.interval.ms": 100}
    assert clients.consumer(lambda error, partitions: None) is not None


def made(monkeypatch, make, kind):
    """The properties that a client is made with."""
    found = {}

    class Made:
        def __init__(self, config, **_):
            found.update(config)

    monkeypatch.setattr(clients, kind, Made)
    make()
    return found


@pytest.mark.parametrize("make", [clients.producer, clients.dead_letter_producer])
def test_what_is_acknowledged_is_on_every_replica_in_order(make, monkeypatch):
    config = made(monkeypatch, make, "Producer")
    assert config["acks"] == "all"
    assert config["enable.idempotence"] is True
    assert config["partitioner"] == "murmur2_random"


def test_the_producer_never_numbers_updates_anew(monkeypatch):
    """Kafka would store what is under way a second time (ADR 0009)."""
    config = made(monkeypatch, clients.producer, "Producer")
    assert config["delivery.timeout.ms"] == 2**31 - 1
    assert config["enable.gapless.guarantee"] is True


def test_a_dead_letter_that_is_given_up_is_not_sent_later(monkeypatch):
    config = made(monkeypatch, clients.dead_letter_producer, "Producer")
    assert config["delivery.timeout.ms"] == clients.LETTER_TIMEOUT_MS


@pytest.mark.parametrize(
    "make", [KINDS["consumer"], KINDS["group reader"]], ids=["consumer", "group reader"]
)
def test_who_reads_begins_and_commits_where_the_code_says_alone(make, monkeypatch):
    """Beginning elsewhere would leave out records, in silence."""
    config = made(monkeypatch, make, "Consumer")
    assert config["auto.offset.reset"] == "error"
    assert config["enable.auto.commit"] is False
    assert config["enable.auto.offset.store"] is False
    assert config["enable.partition.eof"] is True


def test_a_group_reader_waits_briefly_at_the_end_of_a_partition(monkeypatch):
    """The end is a fetch that finds nothing: a page waits for several of them."""
    config = made(monkeypatch, clients.group_reader, "Consumer")
    assert config["fetch.wait.max.ms"] <= 10
    assert config["fetch.queue.backoff.ms"] <= 10


def test_what_the_producer_puts_on_the_topic_stands_where_it_belongs(settings):
    """librdkafka's hash and ours agree: no accepted update is a dead letter."""
    cluster = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1})
    (broker,) = cluster.list_topics(timeout=10).brokers.values()
    settings.KAFKA_BOOTSTRAP_SERVERS = f"{broker.host}:{broker.port}"
    producer = clients.producer()
    partitions = len(producer.list_topics("t", timeout=10).topics["t"].partitions)
    patients = [str(n) for n in range(500)]
    patients += ["a/b", "\N{LATIN SMALL LETTER E WITH ACUTE}", "\N{GRINNING FACE}" * 32]
    patients += ["x" * length for length in range(1, 129)]
    placed: dict[str, int | None] = {}

    def delivered(error: KafkaError | None, message: Message) -> None:
        assert error is None
        placed[(message.key() or b"").decode()] = message.partition()

    for patient in patients:
        producer.produce("t", b"{}", patient.encode(), on_delivery=delivered)
    assert producer.flush(20) == 0
    assert partitions > 1
    assert placed == {p: records.partition_of(p, partitions) for p in patients}
    cluster.flush(1)
