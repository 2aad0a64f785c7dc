"""Changes: whether topic, table and group are still those that the consumer began with.

In: readers of the topic, of the table's id, and of the group. Out: StartOver, where one
of them has changed. Knows no record.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from profiles.core.updates import Incarnation
from profiles.kafka.groups import Group
from profiles.kafka.topics import KafkaUnavailable, Topic

log = logging.getLogger(__name__)

WATCH_S = 2.0
TABLE_S = 1.0
"""No table is made anew, or restored under its name, in so short a time."""

LOST_S = 30.0
"""How long the group may be without us, while its coordinator answers.

librdkafka reconnects at least every 10 s (`reconnect.backoff.max.ms`), and sends a
request to join within a second then. From that moment on we are a member, however long
the rebalance takes.
"""


class StartOver(Exception):
    """Topic or table is another one, or the group has lost us: begin anew.

    Everything uncommitted is dropped.
    """


class ChangeDetector:
    """Reads topic, table and group again, and compares.

    `read_table_id` returns None where DynamoDB does not answer now. `table_id` is the
    table that the consumer began with. Raises KafkaUnavailable.
    """

    def __init__(
        self,
        read_topic: Callable[[], Topic],
        read_table_id: Callable[[], str | None],
        read_group: Callable[[], Group],
        table_id: str,
    ) -> None:
        self._read_topic = read_topic
        self._read_table_id = read_table_id
        self._read_group = read_group
        self.topic = read_topic()
        self.incarnation = Incarnation(self.topic.id, table_id)
        self.group_has_lost_us = False
        self._watched_at = self._table_read_at = time.monotonic()
        self._missing_since: float | None = None

    def watch(self, member_id: str | None) -> bool:
        """Check topic and group every WATCH_S; whether it did so now."""
        if time.monotonic() - self._watched_at <= WATCH_S:
            return False
        self._watched_at = time.monotonic()
        try:
            self.check_topic()
            self._check_group(member_id)
        except KafkaUnavailable as error:
            self._missing_since = None  # no member can join meanwhile
            log.warning("waiting for Kafka: %s", error)
        return True

    def check_topic(self) -> None:
        """Raises StartOver if the topic was recreated, or KafkaUnavailable."""
        if self._read_topic().id != self.topic.id:
            raise StartOver(f"topic {self.topic.name} was recreated")

    def is_same_table(self) -> bool:
        """False if DynamoDB does not answer; raises StartOver if the table was replaced.

        A table that was made anew under its name has none of what was written before,
        and a first write would fence that out.
        """
        if time.monotonic() - self._table_read_at < TABLE_S:
            return True
        table_id = self._read_table_id()
        if table_id is None:
            log.warning("waiting for the table: its id can't be read")
            return False
        if table_id != self.incarnation.table_id:
            raise StartOver("the table was replaced")
        self._table_read_at = time.monotonic()
        return True

    def forget_table(self) -> None:
        """Have the table's id read again before the next write."""
        self._table_read_at = -math.inf

    def _check_group(self, member_id: str | None) -> None:
        """Raises StartOver after the group was without us for LOST_S.

        A broker that has just come back may report a cluster without brokers. librdkafka
        then drops all that it knew: it may never connect again, and reports nothing.
        """
        if self._read_group().may_have(member_id):
            self._missing_since = None
        elif self._missing_since is None:
            self._missing_since = time.monotonic()
        elif time.monotonic() - self._missing_since > LOST_S:
            self.group_has_lost_us = True
            raise StartOver(
                f"Kafka answers, and this consumer was not in its group for {LOST_S:g} s"
            )
