"""Operators' errors: each ends a command with a sentence and an exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
from botocore.exceptions import CredentialRetrievalError
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from django.core.management import CommandError

from profiles.dynamodb.client import StoreRefused, StoreUnavailable
from profiles.kafka.reader import LogMoved
from profiles.kafka.topics import KafkaUnavailable, TopicMissing, WrongTopic
from profiles.management import errors


def said(error: BaseException, *further: type[Exception], returncode: int = 1) -> str:
    """The sentence of a command that ends with this error."""

    @errors.as_sentences(*further, returncode=returncode)
    def handle() -> None:
        raise error

    with pytest.raises(CommandError) as ended:
        handle()
    assert ended.value.returncode == returncode
    assert ended.value.__suppress_context__
    return str(ended.value)


@pytest.fixture(autouse=True)
def on_aws(settings):
    settings.KAFKA_BOOTSTRAP_SERVERS = "kafka:9092"
    settings.DYNAMODB_ENDPOINT_URL = ""
    settings.DEVELOPMENT = False


def test_development_says_how_to_start_the_engines(settings):
    settings.DEVELOPMENT = True
    settings.DYNAMODB_ENDPOINT_URL = "http://dynamodb:4566"
    start = "start it with `make local-dev-stack`."
    kafka, dynamodb = said(KafkaUnavailable("No answer")), said(StoreUnavailable("No"))
    assert kafka == f"No answer: KAFKA_BOOTSTRAP_SERVERS is kafka:9092; {start}"
    assert dynamodb == f"No: DYNAMODB_ENDPOINT_URL is http://dynamodb:4566; {start}"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            KafkaUnavailable("No answer"),
            "No answer: KAFKA_BOOTSTRAP_SERVERS is kafka:9092.",
        ),
        (
            StoreUnavailable("No answer"),
            "No answer: check the network, and the AWS credentials of this process.",
        ),
    ],
)
def test_production_says_what_to_check(error, sentence):
    assert said(error) == sentence


@pytest.mark.parametrize("kind", [TopicMissing, WrongTopic, LogMoved, StoreRefused])
def test_an_error_that_says_what_to_do_is_printed_as_it_is(kind):
    assert said(kind("Do this")) == "Do this."


def test_an_error_of_one_command_is_printed_as_it_is():
    class NotMarked(Exception):
        """One that only this command raises."""

    assert said(NotMarked("Do this"), NotMarked, returncode=2) == "Do this."


@pytest.mark.parametrize(
    ("config", "named"),
    [({"no.such": "1"}, "no.such"), ({"security.protocol": "x"}, "security.protocol")],
    ids=["property", "value"],
)
def test_what_kafka_s_client_does_not_accept_is_named(config, named):
    with pytest.raises(KafkaException) as refused:
        AdminClient(config)
    sentence = said(refused.value)
    assert named in sentence
    assert sentence.endswith(": check KAFKA_CONFIG.")


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (KafkaError._TRANSPORT, "Kafka does not answer (_TRANSPORT): KAFKA_BOOT"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "Kafka refuses (TOPIC_AUTHORIZATION"),
    ],
)
def test_a_broker_that_refuses_is_not_one_that_is_away(code, sentence):
    assert said(KafkaException(KafkaError(code))).startswith(sentence)


def test_credentials_that_can_t_be_read_are_reported():
    error = CredentialRetrievalError(provider="custom-process", error_msg="no key.")
    assert said(error).endswith("from custom-process: no key: check AWS's settings.")


def test_a_file_that_can_t_be_read_is_named():
    with pytest.raises(FileNotFoundError) as missing:
        Path("/nonexistent/token").read_text()
    assert said(missing.value) == "/nonexistent/token: No such file or directory."


def test_ctrl_c_ends_with_the_code_of_a_shell():
    assert said(KeyboardInterrupt(), returncode=errors.INTERRUPTED) == "Interrupted."


def test_an_error_of_the_program_passes_through():
    with pytest.raises(KeyError), errors.as_sentences():
        raise KeyError
