"""`manage.py` whose producer gives up before its client does, and numbers anew.

What was under way then is sent again as something new: Kafka stores it twice.
"""

from __future__ import annotations

import sys
from typing import Any

from confluent_kafka import Producer
from django.core.management import execute_from_command_line

from profiles.kafka import clients

SHORT = {"delivery.timeout.ms": 3500, "enable.gapless.guarantee": False}


class Hasty(Producer):
    def __init__(self, config: dict[str, Any], **options: Any) -> None:
        super().__init__({**config, **SHORT}, **options)

    def purge(self, *_: Any, **__: Any) -> None:
        """What waits to be sent again stays in the queue."""


vars(clients)["Producer"] = Hasty

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
