"""The Kafka rights of docs/deploy.md, on a broker that refuses everything else.

Each process signs in as the user of its own that the document names, and does its work.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest
import requests
from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
)
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from tests import stack
from tests.engines.process import wait_until
from tests.engines.real import DynamoDBLocal, KafkaCluster
from tests.stack import ROOT, TABLE, TOPIC, Stack

pytestmark = pytest.mark.real

PROCESSES = ("web", "pages", "consumer", "provision", "keda")
GROUP = f"profiles-{TABLE}"
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
GRANTS = re.findall(
    r"^\$ACLS --add (.+)$", (ROOT / "docs/deploy.md").read_text(), re.MULTILINE
)


def as_user(name: str) -> dict[str, str]:
    """Kafka properties: PLAIN without TLS stands for any way to sign in."""
    return {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": name,
        "sasl.password": name,
    }


def signed_in(servers: str, name: str) -> dict[str, str | int | float | bool]:
    return {"bootstrap.servers": servers, **as_user(name)}


def guarded() -> dict[str, object]:
    """A broker that knows the users, and asks the authorizer about each."""
    names = ["admin", *(f"patient-profile-{process}" for process in PROCESSES)]
    users = " ".join(f'user_{name}="{name}"' for name in names)
    return {
        "listener.security.protocol.map": "BROKER:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.broker.plain.sasl.jaas.config": (
            f'{PLAIN} required username="admin" password="admin" {users};'
        ),
        "authorizer.class.name": (
            "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
        ),
        "super.users": "User:admin;User:ANONYMOUS",  # the controller's listener
    }


def binding(grant: str) -> AclBinding:
    """A line of the document, less the command, as kafka-acls.sh reads it."""
    words = iter(shlex.split(grant))
    told = {word.removeprefix("--"): next(words) for word in words}
    [kind] = {"topic", "group"} & told.keys()
    return AclBinding(
        ResourceType[kind.upper()],
        told[kind],
        ResourcePatternType.LITERAL,
        told["allow-principal"],
        "*",
        AclOperation[re.sub(r"(?<=[a-z])(?=[A-Z])", "_", told["operation"]).upper()],
        AclPermissionType.ALLOW,
    )


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The engines, with the rights of the document, provisioned by its user."""
    directory = tmp_path_factory.mktemp("rights")
    cluster = KafkaCluster(directory, properties=guarded())
    try:
        cluster.start()
        admin = AdminClient(signed_in(cluster.bootstrap_servers, "admin"))
        wait_until(lambda: grant_all(admin), 60, "the broker")
        with DynamoDBLocal(directory) as dynamodb:
            engines = stack.stack_on(
                directory, cluster.bootstrap_servers, dynamodb.endpoint_url
            )
            acting(engines, "provision").manage("provision")
            yield engines
    finally:
        cluster.kill()


def grant_all(admin: AdminClient) -> bool:
    """Whether the broker is there, and has taken every right."""
    try:
        granted = admin.create_acls([*map(binding, GRANTS)], request_timeout=5)
        for future in granted.values():
            future.result()
    except KafkaException:
        return False
    return True


def produce(engines: Stack, value: bytes) -> None:
    """Put a record on the topic as somebody who may do anything."""
    config = signed_in(engines.bootstrap_servers, "admin")
    producer = Producer({**config, "partitioner": "murmur2_random"})
    producer.produce(TOPIC, value, b"1")
    assert producer.flush(10) == 0


def acting(engines: Stack, process: str) -> Stack:
    user = {
        **json.loads(engines.environ["KAFKA_CONFIG"]),
        **as_user(f"patient-profile-{process}"),
    }
    environ = {**engines.environ, "KAFKA_CONFIG": json.dumps(user)}
    return Stack(engines.directory, environ)


def test_every_process_can_do_its_work_and_the_pages_see_it(engines):
    with (
        acting(engines, "web").web() as web,
        acting(engines, "consumer").member() as consumer,
    ):
        web.wait_ready()
        consumer.wait_ready()
        posted = requests.post(
            f"{web.url}/patientprofile",
            json={"PatientId": "1", "LastName": "Doe"},
            headers={"Prefer": "wait=20"},
            timeout=30,
        )
        assert posted.status_code == 200
        produce(engines, b"no update")
        wait_until(lambda: consumer.said(b"dead letter:"), 30, "the dead letter")
        consumer.terminate()
        assert consumer.exit_code(20) == 0
    assert "1 dead letters" in acting(engines, "pages").manage("dead_letters", "list")
    assert "in order" in acting(engines, "pages").manage("audit_profiles")


def test_provisioning_again_finds_no_difference(engines):
    said = acting(engines, "provision").manage("provision")
    assert f"topic {TOPIC}: exists" in said
    assert "DIFFERENT" not in said


@pytest.mark.parametrize("process", ["web", "pages", "provision", "keda"])
def test_only_the_consumer_can_consume(engines, process):
    with pytest.raises(subprocess.CalledProcessError):
        acting(engines, process).manage("consume_profiles")


@pytest.mark.parametrize("process", ["web", "consumer", "keda"])
def test_only_the_pages_can_read_dead_letters(engines, process):
    with pytest.raises(subprocess.CalledProcessError):
        acting(engines, process).manage("dead_letters", "list")


@pytest.mark.parametrize("process", ["pages", "consumer", "provision", "keda"])
def test_only_web_can_publish(engines, process):
    told = []
    name = f"patient-profile-{process}"
    producer = Producer(signed_in(engines.bootstrap_servers, name))
    producer.produce(TOPIC, b"{}", on_delivery=lambda error, _: told.append(error))
    producer.flush(10)
    assert [error and error.code() for error in told] == [
        KafkaError.TOPIC_AUTHORIZATION_FAILED
    ]


@pytest.mark.parametrize("process", ["pages", "keda"])
def test_who_shows_the_lag_sees_group_and_offsets(engines, process):
    name = f"patient-profile-{process}"
    admin = AdminClient(signed_in(engines.bootstrap_servers, name))

    def told() -> int:
        error = admin.describe_consumer_groups([GROUP])[GROUP].exception(10)
        return KafkaError.NO_ERROR if error is None else error.args[0].code()

    # A new cluster makes the topic of the groups' offsets when it is first asked.
    not_there = (
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    )
    wait_until(lambda: told() not in not_there, 30, "the coordinator was not there")
    assert told() in (KafkaError.NO_ERROR, KafkaError.GROUP_ID_NOT_FOUND)
    asked = ConsumerGroupTopicPartitions(GROUP)
    [answer] = admin.list_consumer_group_offsets([asked]).values()
    assert answer.result(10).group_id == GROUP
