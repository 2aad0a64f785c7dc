"""The commands: options, signals, exit codes, and sentences that say what to do."""

from __future__ import annotations

import io
import signal
import socket
from typing import Any

import pytest
from botocore.exceptions import CredentialRetrievalError, NoCredentialsError
from confluent_kafka import KafkaError
from django.core.management import CommandError, call_command
from django.core.management.commands import runserver as django_runserver

from profiles.consumer.changes import StartOver
from profiles.consumer.reading import RecordsMissing
from profiles.dynamodb import client, writer
from profiles.dynamodb.client import StoreRefused, StoreUnavailable
from profiles.kafka import clients, groups, topics
from profiles.kafka.topics import KafkaUnavailable, WrongTopic
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
def unknown_property(settings):
    """KAFKA_CONFIG names a property that librdkafka does not know."""
    settings.KAFKA_CONFIG = {"no.such": "1"}


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


# Every command that needs an engine


COMMANDS = {
    "audit_profiles": 2,
    "consume_profiles": 1,
    "dead_letters list": 1,
    "provision": 1,
    "rebuild_profiles --table patient-profile": 1,
}
"""The commands, and the exit code of each when it can't go on."""

of_every_command = pytest.mark.parametrize(("command", "code"), COMMANDS.items())
of_table_commands = pytest.mark.parametrize(
    ("command", "code"),
    [(name, code) for name, code in COMMANDS.items() if "letters" not in name],
)


def failure(command: str, code: int) -> str:
    """The sentence with which it ends; it is printed without a traceback."""
    with pytest.raises(CommandError) as ended:
        run(*command.split())
    assert ended.value.returncode == code
    assert ended.value.__suppress_context__
    return str(ended.value)


@of_every_command
def test_without_kafka_the_sentence_says_where_and_how_to_start_it(
    no_kafka, dynamodb, settings, command, code
):
    settings.DYNAMODB_ENDPOINT_URL = ""
    said = failure(command, code)
    assert said.startswith("Kafka does not answer (")
    assert f"KAFKA_BOOTSTRAP_SERVERS is {NOBODY}; start it with `make loc" in said


@of_every_command
def test_a_property_that_kafka_s_client_does_not_know_is_named(
    unknown_property, dynamodb, command, code
):
    said = failure(command, code)
    assert "no.such" in said
    assert said.endswith("check KAFKA_CONFIG.")


@pytest.mark.parametrize(
    ("command", "code"),
    [(name, code) for name, code in COMMANDS.items() if name != "provision"],
)
def test_a_missing_topic_is_named_with_the_command_that_creates_it(
    no_topic, dynamodb, command, code
):
    said = failure(command, code)
    assert said.endswith("create it with `python manage.py provision`.")


@pytest.fixture
def no_topic(kafka):
    """A cluster that does not know the topic."""
    kafka.failure = KafkaError.UNKNOWN_TOPIC_OR_PART


@of_table_commands
def test_credentials_that_can_t_be_read_are_reported(
    kafka, dynamodb, monkeypatch, command, code
):
    def connect(attempts=1):
        raise CredentialRetrievalError(provider="custom-process", error_msg="no key")

    run("provision")
    monkeypatch.setattr(client, "connect", connect)
    assert failure(command, code).endswith("no key: check AWS's settings.")


@of_table_commands
def test_missing_credentials_are_reported(kafka, dynamodb, monkeypatch, command, code):
    def refuse(*args, **options):
        raise NoCredentialsError

    run("provision")
    for call in ("create_table", "describe_table"):
        monkeypatch.setattr(dynamodb, call, refuse)
    assert failure(command, code) == "no AWS credentials: configure them."


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


def test_provision_fails_if_a_topic_differs_and_reports_all_differences(
    kafka, dynamodb
):
    run("provision")
    kafka.topics["patient-profile"].config["cleanup.policy"] = "compact"
    kafka.topics["patient-profile.dlq"].config["max.message.bytes"] = "1048588"
    output = io.StringIO()
    with pytest.raises(CommandError, match=r"Differences from the settings: 2\.$"):
        call_command("provision", stdout=output)
    assert output.getvalue().splitlines() == [
        "topic patient-profile: exists",
        "topic patient-profile: DIFFERENT: cleanup.policy is compact, configured is delete",
        "topic patient-profile.dlq: exists",
        "topic patient-profile.dlq: DIFFERENT: max.message.bytes is 1048588, "
        "configured is 4194304",
        "table patient-profile: exists",
    ]


def test_provision_fails_if_the_table_differs_and_does_not_prove_it(
    kafka, dynamodb, settings, monkeypatch
):
    proven: list[object] = []
    monkeypatch.setattr(writer.TableWriter, "prove", lambda table: proven.append(table))
    settings.DYNAMODB_ENDPOINT_URL = "http://127.0.0.1:4566"
    settings.DYNAMODB_TABLE = "other"
    dynamodb.create_table(
        TableName="other",
        KeySchema=[{"AttributeName": "Id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "Id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(CommandError, match=r"Differences from the settings: 1\.$"):
        run("provision")
    assert proven == []


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
    with pytest.raises(CommandError, match=r"otherwise"):
        run("provision")


# consume_profiles


class FakeConsumer:
    """Stands in for ProfileConsumer; a test sets how its runs end."""

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


@pytest.fixture(autouse=True)
def _signal_handlers():
    """The consumer's handlers end with the test."""
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def consumers(kafka, dynamodb, monkeypatch):
    """The consumers that the command makes, where topic and table are provisioned."""
    run("provision")
    monkeypatch.setattr(consume_profiles, "ProfileConsumer", FakeConsumer)
    monkeypatch.setattr(FakeConsumer, "made", [])
    monkeypatch.setattr(FakeConsumer, "ends", [])
    monkeypatch.setattr(clients, "consumer", lambda: None)
    return FakeConsumer


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


def test_a_signal_ends_the_wait_for_the_table(consumers, monkeypatch):
    def away(table):
        signal.raise_signal(signal.SIGTERM)
        raise StoreUnavailable("DynamoDB does not answer")

    monkeypatch.setattr(writer.TableWriter, "identity", away)
    run("consume_profiles")
    assert consumers.made == []


def test_a_recreated_topic_gets_another_consumer(consumers, caplog):
    consumers.ends += [StartOver("topic was recreated"), None]
    run("consume_profiles")
    assert "topic was recreated: starting over" in caplog.text
    assert len(consumers.made) == 2


def test_the_next_consumer_gets_the_same_clients(consumers, kafka, monkeypatch):
    """Those of another topic or table are the same, and old ones would stay behind."""
    made = []
    dynamodb = client.connect()
    for module, name, one in ((clients, "admin", kafka), (client, "connect", dynamodb)):

        def make(*attempts, name=name, one=one):
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
def test_an_error_for_the_operator_ends_the_command_with_its_sentence(consumers, end):
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

    monkeypatch.setattr(groups, "all_read", all_read)
    monkeypatch.setattr(clients, "group_reader", lambda: None)
    monkeypatch.setattr(consumers, "owned", frozenset(ours))
    monkeypatch.setattr(consumers, "caught_up", caught_up)
    with pytest.raises(CommandError, match="Stopped before everything was read"):
        run("consume_profiles", "--until-caught-up")  # the fake's run ends by SIGTERM
    assert consumers.made[0].until() is over
    assert all(asked)


def test_a_grown_topic_is_consumed_by_its_former_count_with_the_option_grown(
    consumers, settings, monkeypatch
):
    def all_read(group, topic, partitions):
        asked.append(partitions)
        return True

    asked: list[object] = []
    monkeypatch.setattr(groups, "all_read", all_read)
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


def test_consuming_waits_while_dynamodb_does_not_answer(consumers, monkeypatch):
    answers = [StoreUnavailable("DynamoDB does not answer"), "store"]

    def identity(table):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(writer.TableWriter, "identity", identity)
    monkeypatch.setattr(consume_profiles, "time", Clock())
    assert "waiting: DynamoDB does not answer" in run("consume_profiles")
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
    assert "POST returns 503 for now: Kafka does not answer" in output.getvalue()
    assert served == [1]


def test_runserver_reports_a_property_that_kafka_s_client_does_not_know(
    unknown_property, served
):
    output = io.StringIO()
    runserver.Command(stdout=output, stderr=output).inner_run()
    assert "no.such" in output.getvalue()
    assert served == [1]


def test_runserver_with_kafka_prints_nothing(monkeypatch, served):
    monkeypatch.setattr(topics, "configured", lambda admin: TOPIC)
    output = io.StringIO()
    runserver.Command(stdout=output, stderr=output).inner_run()
    assert (output.getvalue(), served) == ("", [1])


def test_serve_is_on_loopback_and_port_3000_by_default(monkeypatch):
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


def test_serve_says_that_its_port_is_taken():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(CommandError, match="Address already in use"),
    ):
        run("serve", "--port", str(taken.getsockname()[1]))
