"""`manage.py` with auto-commit: an offset counts as done once its record was read."""

from __future__ import annotations

import sys
from typing import Any

from confluent_kafka import Consumer
from django.core.management import execute_from_command_line

from profiles.kafka import clients

AUTO_COMMIT = {
    "enable.auto.commit": True,
    "enable.auto.offset.store": True,
    "auto.commit.interval.ms": 200,
}


def auto_committing(config: dict[str, Any], **options: Any) -> Consumer:
    return Consumer({**config, **AUTO_COMMIT}, **options)


vars(clients)["Consumer"] = auto_committing

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
