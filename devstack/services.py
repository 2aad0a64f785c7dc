"""The web process and the consumer of a run, and what they have reached.

In: a port, or an admin client. Out: the commands, and whether each is ready and the
consumer group has caught up. Nothing here joins the group.
"""

from __future__ import annotations

import os
import sys

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient
from django.conf import settings

from devstack.engines import ROOT, answers
from devstack.process import Command
from profiles.kafka import clients, topics
from profiles.kafka.reader import LogReader

PATIENCE_S = 2.0


def web() -> Command:
    """The production server, as `make run` runs it."""
    return _manage("web", "serve")


def consumer() -> Command:
    """One member of the consumer group."""
    return _manage("consumer", "consume_profiles")


def _manage(name: str, command: str) -> Command:
    argv = [sys.executable, str(ROOT / "manage.py"), command]
    return Command(name, argv, os.environ, patience_s=8)


def web_is_ready(port: int) -> bool:
    """Whether the web process accepts updates."""
    return answers(port, "/readyz")


def consumer_has_joined(admin: AdminClient) -> bool:
    """Whether the group has a member and its partitions are assigned."""
    group = settings.KAFKA_GROUP_ID
    found = admin.describe_consumer_groups([group], request_timeout=2)[group]
    try:
        return found.result(timeout=3).state is ConsumerGroupState.STABLE
    except (KafkaException, TimeoutError):
        return False


def all_is_applied() -> bool:
    """Whether the group has committed everything that is on the topic; takes seconds.

    Read from outside the group: a new member waits for seconds to join, and on the
    embedded broker sometimes without end.
    """
    group = clients.group_reader()
    try:
        with clients.admin() as admin:
            topic = topics.configured(admin)
        log = LogReader(group, topic, PATIENCE_S)
        committed = log.committed(None)
        return all(
            committed.get(partition, 0) >= span.stop
            for partition, span in log.spans().items()
        )
    except topics.KafkaUnavailable:
        return False
    finally:
        group.close()
