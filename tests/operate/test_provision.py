"""Provisioning: creates what is missing, reports differences, changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError
from confluent_kafka import KafkaError, KafkaException

from profiles.dynamodb.client import StoreRefused, StoreUnavailable
from profiles.operate import provision
from profiles.operate.provision import (
    Outcome,
    provision_table,
    provision_topic,
    topic_plans,
)
from tests.fakes import FakeAdmin

PLANS = topic_plans("patient-profile", "patient-profile.dlq", 12, -1)
TOPIC, DEAD_LETTERS = PLANS


def provisioned(admin: Any, plan=TOPIC) -> Outcome:
    return provision_topic(admin, plan)


def test_the_topic_is_created_to_keep_everything_in_the_broker_s_time():
    admin = FakeAdmin()
    created = "created with 12 partitions, replicas: 1"
    assert provisioned(admin) == Outcome("topic patient-profile", created)
    assert admin.topics["patient-profile"].config == {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "max.message.bytes": "1048588",
        "message.timestamp.type": "LogAppendTime",
    }


def test_the_dead_letter_topic_takes_larger_records_and_keeps_them():
    admin = FakeAdmin()
    provisioned(admin, DEAD_LETTERS)
    assert admin.topics["patient-profile.dlq"].config == {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "max.message.bytes": str(provision.DEAD_LETTER_BYTES),
    }
    assert provision.DEAD_LETTER_BYTES > provision.BATCH_BYTES


@pytest.mark.parametrize(("brokers", "replicas"), [(1, 1), (2, 2), (3, 3), (5, 3)])
def test_a_record_has_up_to_three_replicas(brokers, replicas):
    admin = FakeAdmin(brokers)
    provisioned(admin)
    (created,) = admin.created
    assert created.replication_factor == replicas
    assert ("min.insync.replicas" in created.config) == (brokers >= 3)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_once_more_changes_nothing_and_says_that_it_exists(plan):
    admin = FakeAdmin(3)
    provisioned(admin, plan)
    assert provisioned(admin, plan) == Outcome(f"topic {plan.name}", "exists")
    assert len(admin.created) == 1


def test_a_topic_that_differs_is_reported():
    admin = FakeAdmin()
    provisioned(admin)
    (other, _) = topic_plans("patient-profile", "dlq", 24, 1000)
    assert provisioned(admin, other).differences == (
        "it has 12 partitions, configured are 24",
        "retention.ms is -1, configured is 1000",
    )


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
@pytest.mark.parametrize(
    ("name", "value"),
    [("cleanup.policy", "compact"), ("max.message.bytes", "9"), ("retention.ms", "9")],
)
def test_policy_size_and_retention_are_compared_for_both_topics(plan, name, value):
    admin = FakeAdmin()
    provisioned(admin, plan)
    admin.topics[plan.name].config[name] = value
    configured = plan.config[name]
    assert provisioned(admin, plan).differences == (
        f"{name} is {value}, configured is {configured}",
    )


def test_a_topic_that_was_created_with_a_broker_missing_is_reported():
    admin = FakeAdmin(2)
    provisioned(admin)
    admin.brokers = dict.fromkeys(range(3))
    assert provisioned(admin).differences == (
        "a partition has 2 replicas, and the cluster has brokers for 3: add replicas",
        "min.insync.replicas is 1, configured is 2",
        "unclean.leader.election.enable is true, configured is false",
    )


def test_another_failure_is_not_swallowed():
    admin = FakeAdmin()
    admin.failure = KafkaError.TOPIC_AUTHORIZATION_FAILED
    with pytest.raises(KafkaException):
        provisioned(admin)


def test_the_table_is_created_once(dynamodb):
    assert provision_table(dynamodb, "new") == Outcome("table new", "created")
    assert provision_table(dynamodb, "new") == Outcome("table new", "exists")


@pytest.mark.parametrize(("key", "kind"), [("Id", "S"), ("PatientId", "N")])
def test_a_table_with_another_key_is_reported(dynamodb, key, kind):
    dynamodb.create_table(
        TableName="other",
        KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": kind}],
        BillingMode="PAY_PER_REQUEST",
    )
    (difference,) = provision_table(dynamodb, "other").differences
    assert "its key is not the string PatientId" in difference
    assert "DYNAMODB_TABLE" in difference


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ThrottlingException", StoreUnavailable),
        ("AccessDeniedException", StoreRefused),
    ],
)
def test_an_answer_of_dynamodb_says_whether_to_wait(dynamodb, monkeypatch, code, kind):
    def refuse(**definition):
        answer: Any = {"Error": {"Code": code}}
        answer["ResponseMetadata"] = {"HTTPStatusCode": 400}
        raise ClientError(answer, "CreateTable")

    monkeypatch.setattr(dynamodb, "create_table", refuse)
    with pytest.raises(kind, match=code.removesuffix("Exception")):
        provision_table(dynamodb, "new")
