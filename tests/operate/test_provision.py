"""Provisioning: what is missing is made, what is different is told, nothing changed."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from profiles.operate import provision
from profiles.operate.provision import provision_table, provision_topic, topic_plans
from tests.fakes import FakeAdmin

PLANS = topic_plans("patient-profile", "patient-profile.dlq", 12, -1)
TOPIC, DEAD_LETTERS = PLANS


def told(admin: Any, plan=TOPIC) -> list[str]:
    return [*provision_topic(admin, plan)]


def test_the_topic_is_made_to_keep_everything_in_the_brokers_time():
    admin = FakeAdmin()
    made = "topic patient-profile: created with 12 partitions, replicas: 1"
    assert told(admin) == [made]
    assert admin.topics["patient-profile"].config == {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "message.timestamp.type": "LogAppendTime",
    }


def test_the_dead_letter_topic_takes_larger_records_and_keeps_them():
    admin = FakeAdmin()
    told(admin, DEAD_LETTERS)
    config = admin.topics["patient-profile.dlq"].config
    assert config["retention.ms"] == "-1"
    assert int(config["max.message.bytes"]) > 1024 * 1024


@pytest.mark.parametrize(("brokers", "copies"), [(1, 1), (2, 2), (3, 3), (5, 3)])
def test_a_record_is_kept_on_up_to_three_brokers(brokers, copies):
    admin = FakeAdmin(brokers)
    told(admin)
    (created,) = admin.created
    assert created.replication_factor == copies
    assert ("min.insync.replicas" in created.config) == (brokers >= 3)


def test_once_more_changes_nothing_and_says_that_it_exists():
    admin = FakeAdmin(3)
    told(admin)
    assert told(admin) == ["topic patient-profile: exists"]
    assert len(admin.created) == 1


def test_a_topic_that_differs_is_told():
    admin = FakeAdmin()
    told(admin)
    (other, _) = topic_plans("patient-profile", "dlq", 24, 1000)
    _, *differences = told(admin, other)
    assert differences == [
        "topic patient-profile: DIFFERENT: it has 12 partitions, configured are 24",
        "topic patient-profile: DIFFERENT: retention.ms is -1, configured is 1000",
    ]


def test_a_topic_that_was_made_with_a_broker_missing_is_told():
    admin = FakeAdmin(2)
    told(admin)
    admin.brokers = dict.fromkeys(range(3))
    _, replicas, *settings = told(admin)
    assert "keeps a record 2 times, and the cluster could 3 times" in replicas
    assert "min.insync.replicas is 1, configured is 2" in settings[0]
    assert "unclean.leader.election.enable is true, configured is false" in settings[1]


def test_another_failure_is_not_swallowed():
    admin = FakeAdmin()
    admin.failure = KafkaError.TOPIC_AUTHORIZATION_FAILED
    with pytest.raises(KafkaException):
        told(admin)


def test_the_table_is_made_once(dynamodb):
    assert [*provision_table(dynamodb, "new")] == ["table new: created"]
    assert [*provision_table(dynamodb, "new")] == ["table new: exists"]


def test_a_table_with_another_key_is_told(dynamodb):
    dynamodb.create_table(
        TableName="other",
        KeySchema=[{"AttributeName": "Id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "Id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    _, difference = provision_table(dynamodb, "other")
    assert "DIFFERENT" in difference
    assert "DYNAMODB_TABLE" in difference


def test_the_dead_letter_topics_records_fit_its_producer():
    assert int(DEAD_LETTERS.config["max.message.bytes"]) == provision.DEAD_LETTER_BYTES
