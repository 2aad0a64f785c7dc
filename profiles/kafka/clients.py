"""Kafka's clients, made from the settings.

Out: a producer, a consumer, a reader, an admin client, each configured as the guarantee
needs it. Knows no topic's content.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from django.conf import settings

kafka_log = logging.getLogger("kafka")
kafka_log.addFilter(lambda line: "enable.gapless.guarantee" not in line.getMessage())
"""Librdkafka warns that this property is experimental, at each new producer."""

NEVER_MS = 2**31 - 1
LETTER_TIMEOUT_MS = 3500
"""Below the 5 s of an attempt to write dead letters."""

_CONSUMER_ONLY = ("fetch.", "group.", "heartbeat.", "max.poll.", "queued.", "session.")
_PRODUCER_ONLY = ("batch.", "compression.", "linger.", "queue.buffering.")
_CLASSIC_ONLY = ("heartbeat.", "session.")
"""With KIP-848 the broker decides these, and librdkafka refuses them."""


def producer() -> Producer:
    """An idempotent producer: acknowledged by all in-sync replicas, Java's partitioner.

    It never gives an update up, nor numbers updates anew: either could store an update
    twice. Make it after any fork: a producer does not survive one.
    """
    config = {
        "acks": "all",
        "enable.idempotence": True,
        "enable.gapless.guarantee": True,
        "partitioner": "murmur2_random",
        "delivery.timeout.ms": NEVER_MS,
        "linger.ms": 0,
    }
    return Producer({**config, **_kafka(_CONSUMER_ONLY)}, logger=kafka_log)


def dead_letter_producer() -> Producer:
    """As `producer`, for records with headers that say why they are there.

    A record that the topic took compressed is not refused for its size unpacked.
    """
    config = {
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "delivery.timeout.ms": LETTER_TIMEOUT_MS,
        "compression.type": "zstd",
        "message.max.bytes": 1_000_000_000,
    }
    return Producer({**_kafka(_CONSUMER_ONLY), **config}, logger=kafka_log)


def consumer(
    on_commit: Callable[[KafkaError | None, list[TopicPartition]], None],
) -> Consumer:
    """A member of the group; nothing is committed unless the loop commits it.

    `on_commit` is called with the result of each asynchronous commit, inside `consume`.
    """
    others: tuple[str, ...] = _PRODUCER_ONLY
    if settings.KAFKA_GROUP_PROTOCOL == "consumer":
        protocol = {"group.protocol": "consumer"}
        others = (*_PRODUCER_ONLY, *_CLASSIC_ONLY)
    else:
        protocol = {"partition.assignment.strategy": "cooperative-sticky"}
    # The pages and Kafka's own tools show this name as the partition's owner.
    name = {"client.id": f"{socket.gethostname()}-{os.getpid()}"}
    ours = {**_reading(), **protocol, **name, "on_commit": on_commit}
    config = {**ours, **_kafka(others)}
    return Consumer(config, logger=kafka_log)


def group_reader() -> Consumer:
    """Reads what the group committed, and the log; joins nothing, commits nothing.

    It fetches little ahead, for decoding a whole log is slower; and it waits briefly,
    for an end of a partition is known by a fetch that finds nothing.
    """
    fetching = {
        "queued.max.messages.kbytes": 8 * 1024,
        "fetch.queue.backoff.ms": 10,
        "fetch.wait.max.ms": 10,
    }
    others = (*_PRODUCER_ONLY, "group.instance.id")
    return Consumer({**_reading(), **fetching, **_kafka(others)}, logger=kafka_log)


def admin() -> AdminClient:
    """The client that describes and creates topics."""
    return AdminClient(_kafka(_CONSUMER_ONLY + _PRODUCER_ONLY), logger=kafka_log)


def _reading() -> dict[str, Any]:
    """Only our code decides where to begin and what to commit."""
    return {
        "group.id": settings.KAFKA_GROUP_ID,
        "auto.offset.reset": "error",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
    }


def _kafka(other_clients: tuple[str, ...]) -> dict[str, Any]:
    """The common properties, without those of other kinds of client."""
    further = {
        name: value
        for name, value in settings.KAFKA_CONFIG.items()
        if not name.startswith(other_clients)
    }
    servers = {"bootstrap.servers": settings.KAFKA_BOOTSTRAP_SERVERS}
    return {**servers, **_msk_iam(), **further}


def _msk_iam() -> dict[str, Any]:
    """IAM authentication for Amazon MSK: tokens signed with the process's AWS role."""
    if not (region := settings.KAFKA_MSK_IAM_REGION):
        return {}
    from aws_msk_iam_sasl_signer import MSKAuthTokenProvider  # the extra `msk`

    def token(_: str | None) -> tuple[str, float]:
        try:
            signed, expires_ms = MSKAuthTokenProvider.generate_auth_token(region)
        except Exception as error:  # librdkafka reports only that there is no token
            kafka_log.error("no token can be signed: %s", type(error).__name__)
            raise
        return signed, expires_ms / 1000

    mechanism = {"security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER"}
    return {**mechanism, "oauth_cb": token}
