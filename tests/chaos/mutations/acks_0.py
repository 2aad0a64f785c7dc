"""`manage.py` with acks=0: an update counts as durable once it was sent.

Such a producer learns no offset, so one is made up: nobody would know one.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

from confluent_kafka import Producer
from django.core.management import execute_from_command_line

from profiles.kafka import clients

ACKS_0 = {"acks": 0, "enable.idempotence": False}
offsets = itertools.count(1_000_000)


class Sent:
    """A message as its delivery report would show it, had anybody acknowledged it."""

    def __init__(self, message: Any) -> None:
        self.partition = message.partition
        self.offset = offsets.__next__


class Careless(Producer):
    def __init__(self, config: dict[str, Any], **options: Any) -> None:
        super().__init__({**config, **ACKS_0}, **options)

    def produce(  # as Kafka's client takes it, by place or by name
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        partition: int = -1,
        callback: Any = None,
        on_delivery: Any = None,
        timestamp: int = 0,
        headers: Any = None,
    ) -> None:
        report = callback or on_delivery

        def sent(error: Any, message: Any) -> None:
            report(error, Sent(message))

        super().produce(
            topic, value, key, partition, sent, None, timestamp, headers or []
        )


vars(clients)["Producer"] = Careless

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
