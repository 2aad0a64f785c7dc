"""The commands: options, signals, exit codes, and sentences that say what to do."""

from __future__ import annotations

import io
import signal
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from confluent_kafka import KafkaError, KafkaException
from django.core.management import CommandError, call_command
from django.core.management.commands import runserver as django_runserver

from profiles.consumer.loop import RecordsMissing, StartOver
from profiles.dynamodb import client, writer
from profiles.dynamodb.client import StoreRefused, StoreUnavailable
from profiles.kafka import clients, topics
from profiles.kafka.topics import KafkaUnavailable, TopicMissing, WrongTopic
from profiles.management.commands import consume_profiles, runserver, serve
from profiles.operate import provision
from tests.fakes import TOPIC, Clock, FakeAdmin

NOBODY = "127.0.0.1:1"


@pytest.fixture
def no_kafka(settings, monkeypatch):
    """Nothing listens where Kafka should."""
    settings.KAFKA_BOOTSTRAP_SERVERS = NOBODY
    monkeypatch.setattr(topics, "DESCRIBE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(provision, "ADMIN_TIMEOUT_S", 0.1)


@pytest.fixture
def kafka(monkeypatch):
    """A cluster without topics."""
    admin = FakeAdmin()
    monkeypatch.setattr(clients, "admin", lambda: admin)
    return admin


def run(*command: str) -> str:
    """What the command prints, errors included."""
    output = io.StringIO()
    call_command(*command, stdout=output, stderr=output)
    return output.getvalue()


# provision


def test_provision_makes_topics_and_table_and_may_be_run_again(kafka, dynamodb):
    dynamodb.delete_table(TableName="patient-profile")
    assert run("provision").splitlines() == [
        "topic patient-profile: created with 12 partitions, replicas: 1",
        "topic patient-profile.dlq: created with 1 partitions, replicas: 1",
        "table patient-profile: created",
    ]
    assert run("provision").splitlines() == [
        "topic patient-profile: exists",
        "topic patient-profile.dlq: exists",
        "table patient-profile: exists",
    ]


def test_provision_without_kafka_says_how_to_start_it(no_kafka):
    with pytest.raises(CommandError, match=rf"{NOBODY}.*make local-dev-stack"):
        run("provision")


def test_provision_without_dynamodb_says_how_to_start_it(kafka, settings):
    settings.DYNAMODB_ENDPOINT_URL = f"http://{NOBODY}"
    with pytest.raises(CommandError, match=rf"{NOBODY}.*make local-dev-stack"):
        run("provision")


REFUSED = ClientError({"Error": {"Code": "AccessDeniedException"}}, "CreateTable")


@pytest.mark.parametrize(
    ("step", "error", "told"),
    [
        (
            "provision_topic",
            KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)),
            r"Kafka refuses .*TOPIC_AUTHORIZATION_FAILED\): check .* rights",
        ),
        (
            "provision_table",
            REFUSED,
            r"DynamoDB refuses on AWS \(AccessDeniedException\): check .* rights",
        ),
        (
            "provision_table",
            NoCredentialsError(),
            r"on AWS \(NoCredentialsError\): check .* credentials",
        ),
    ],
)
def test_provision_says_what_to_do_about_a_refusal(
    kafka, dynamodb, settings, monkeypatch, step, error, told
):
    def refuse(client, plan):
        raise error

    settings.DYNAMODB_ENDPOINT_URL = ""
    monkeypatch.setattr(provision, step, refuse)
    with pytest.raises(CommandError, match=told):
        run("provision")


@pytest.mark.parametrize(
    ("endpoint_url", "proofs"), [("", 0), ("http://127.0.0.1:4566", 1)]
)
def test_provision_proves_an_engine_that_is_not_aws(
    kafka, dynamodb, settings, monkeypatch, endpoint_url, proofs
):
    proven: list[object] = []
    settings.DYNAMODB_ENDPOINT_URL = endpoint_url
    monkeypatch.setattr(writer.TableWriter, "prove", lambda table: proven.append(table))
    run("provision")
    assert len(proven) == proofs


@pytest.mark.parametrize("error", [StoreUnavailable, StoreRefused])
def test_provision_refuses_an_engine_that_is_not_proven(
    kafka, dynamodb, settings, monkeypatch, error
):
    def prove(table):
        raise error("it reads the condition otherwise")

    settings.DYNAMODB_ENDPOINT_URL = "http://127.0.0.1:4566"
    monkeypatch.setattr(writer.TableWriter, "prove", prove)
    with pytest.raises(CommandError, match=r"otherwise\.$"):
        run("provision")


# consume_profiles


class FakeConsumer:
    """Stands in for ProfileConsumer; its runs end as they are told to."""

    ends: list[Exception | None] = []
    made: list[FakeConsumer] = []
    caught_up = False
    owned: frozenset[int] = frozenset()

    def __init__(self, *partners: Any) -> None:
        self.partitions = partners[2]
        self.stopped = 0
        self.until: Any = None
        self.made.append(self)

    def stop(self) -> None:
        self.stopped += 1

    def run(self, until: Any) -> None:
        self.until = until
        if self.ends and (end := self.ends.pop(0)):
            raise end
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)


@pytest.fixture
def consumers(kafka, dynamodb, monkeypatch):
    """The consumers that the command makes, where topic and table are provisioned."""
    run("provision")
    monkeypatch.setattr(consume_profiles, "ProfileConsumer", FakeConsumer)
    monkeypatch.setattr(FakeConsumer, "made", [])
    monkeypatch.setattr(FakeConsumer, "ends", [])
    monkeypatch.setattr(clients, "consumer", lambda: None)
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    yield FakeConsumer
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_sigterm_and_ctrl_c_stop_the_consumer(consumers):
    run("consume_profiles")
    (made,) = consumers.made
    assert made.stopped == 2
    assert made.until() is False


def test_a_signal_between_two_consumers_is_not_lost(consumers, monkeypatch):
    def make(*partners):
        if len(consumers.made) == 1:
            signal.raise_signal(signal.SIGTERM)
        return FakeConsumer(*partners)

    monkeypatch.setattr(consume_profiles, "ProfileConsumer", make)
    consumers.ends += [StartOver("topic was recreated"), None]
    run("consume_profiles")
    assert consumers.made[1].stopped == 3


def test_a_signal_is_heard_while_the_table_is_waited_for(consumers, monkeypatch):
    def away(table):
        signal.raise_signal(signal.SIGTERM)
        raise StoreUnavailable("DynamoDB does not answer")

    monkeypatch.setattr(writer.TableWriter, "identity", away)
    run("consume_profiles")
    assert consumers.made == []


def test_a_recreated_topic_is_begun_anew_with_another_consumer(consumers, caplog):
    consumers.ends += [StartOver("topic was recreated"), None]
    run("consume_profiles")
    assert "topic was recreated: starting over" in caplog.text
    assert len(consumers.made) == 2


def test_whoever_begins_anew_keeps_its_clients(consumers, kafka, monkeypatch):
    """Those of another topic or table are the same, and old ones would stay behind."""
    made = []
    dynamodb = client.connect()
    for module, name, one in ((clients, "admin", kafka), (client, "connect", dynamodb)):

        def make(name=name, one=one):
            made.append(name)
            return one

        monkeypatch.setattr(module, name, make)
    consumers.ends += [StartOver("the table was replaced")] * 5 + [None]
    run("consume_profiles")
    assert len(consumers.made) == 6
    assert sorted(made) == ["admin", "connect"]


@pytest.mark.parametrize(
    "end", [RecordsMissing, StoreRefused, WrongTopic, KafkaUnavailable]
)
def test_what_an_operator_has_to_see_ends_the_command_with_its_sentence(consumers, end):
    consumers.ends.append(end("This is what to do"))
    with pytest.raises(CommandError, match="This is what to do"):
        run("consume_profiles")


@pytest.mark.parametrize(
    ("ours", "caught_up", "others_read", "over"),
    [
        (range(12), True, False, True),
        (range(12), False, False, False),
        (range(6), True, True, True),
        (range(6), True, False, False),
        (range(6), False, True, False),
        ([], True, False, False),
        ([], True, True, True),
    ],
)
def test_until_caught_up_is_over_when_every_partition_is_read(
    consumers, monkeypatch, ours, caught_up, others_read, over
):
    asked = []

    def all_read(group, topic, partitions):
        asked.append({*partitions} == {*range(12)} - {*ours})
        return others_read

    monkeypatch.setattr(topics, "all_read", all_read)
    monkeypatch.setattr(clients, "group_reader", lambda: None)
    monkeypatch.setattr(consumers, "owned", frozenset(ours))
    monkeypatch.setattr(consumers, "caught_up", caught_up)
    with pytest.raises(CommandError, match="Stopped before everything was read"):
        run("consume_profiles", "--until-caught-up")  # the fake's run ends by SIGTERM
    assert consumers.made[0].until() is over
    assert all(asked)


def test_a_grown_topic_is_consumed_by_the_count_that_it_had_where_it_is_asked_for(
    consumers, settings, monkeypatch
):
    def all_read(group, topic, partitions):
        asked.append(partitions)
        return True

    asked: list[object] = []
    monkeypatch.setattr(topics, "all_read", all_read)
    monkeypatch.setattr(clients, "group_reader", lambda: None)
    monkeypatch.setattr(consumers, "caught_up", True)
    settings.KAFKA_PARTITIONS = 6
    with pytest.raises(CommandError, match="12 partitions and KAFKA_PARTITIONS is 6"):
        run("consume_profiles", "--until-caught-up")
    with pytest.raises(CommandError, match="Stopped before everything was read"):
        run("consume_profiles", "--until-caught-up", "--grown")
    (made,) = consumers.made
    assert made.partitions == 6
    assert made.until()
    assert asked == [{*range(12)}]


def test_consuming_without_kafka_says_how_to_start_it(no_kafka):
    with pytest.raises(CommandError, match=rf"{NOBODY} with `make local-dev-stack`"):
        run("consume_profiles")


def test_consuming_without_the_topic_says_how_to_make_it(monkeypatch):
    def configured(admin, grown):
        raise TopicMissing("create it with `python manage.py provision`")

    monkeypatch.setattr(topics, "configured", configured)
    with pytest.raises(CommandError, match=r"manage.py provision`\.$"):
        run("consume_profiles")


def test_consuming_waits_for_a_table_that_is_away(consumers, monkeypatch):
    answers = [StoreUnavailable("DynamoDB does not answer"), "store"]

    def identity(table):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(writer.TableWriter, "identity", identity)
    monkeypatch.setattr(consume_profiles, "time", Clock())
    assert "make local-dev-stack" in run("consume_profiles")
    assert len(consumers.made) == 1


# runserver and serve


@pytest.fixture
def served(monkeypatch):
    """How often Django's own server was started; nothing is migrated."""
    served: list[object] = []
    monkeypatch.setattr(
        django_runserver.Command, "inner_run", lambda *_, **__: served.append(1)
    )
    monkeypatch.setattr(runserver, "call_command", lambda *_, **__: None)
    return served


def test_runserver_is_on_port_3000():
    assert runserver.Command.default_port == "3000"


def test_runserver_serves_without_kafka_and_says_so(no_kafka, served):
    output = io.StringIO()
    runserver.Command(stdout=output, stderr=output).inner_run()
    assert "posts are answered 503" in output.getvalue()
    assert served == [1]


def test_runserver_with_kafka_has_nothing_to_say(monkeypatch, served):
    monkeypatch.setattr(topics, "configured", lambda admin: TOPIC)
    output = io.StringIO()
    runserver.Command(stdout=output, stderr=output).inner_run()
    assert (output.getvalue(), served) == ("", [1])


def test_serve_is_on_loopback_and_port_3000_unless_told(monkeypatch):
    asked: list[dict[str, Any]] = []

    class FakeGranian:
        def __init__(self, target: str, **options: Any) -> None:
            asked.append(options)

        def serve(self) -> None:
            asked.append({"served": True})

    monkeypatch.setattr(serve, "Granian", FakeGranian)
    run("serve")
    assert (asked[0]["address"], asked[0]["port"]) == ("127.0.0.1", 3000)
    assert 0 < asked[0]["backpressure"] <= serve.CONNECTIONS
    assert asked[0]["websockets"] is False
    assert asked[1] == {"served": True}
