"""The real engines under one name, and the command that runs both of them.

    python -m tests.engines.real [--kafka-port P] [--dynamodb-port Q] [--brokers 1]

Prints their addresses as one line of JSON when both are ready, and ends them at
SIGTERM, Ctrl-C or the end of its own input. Does not know the project.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import threading
from pathlib import Path

from tests.engines.dynamodb import DynamoDBLocal
from tests.engines.jars import EnginesUnavailable
from tests.engines.kafka import Broker, KafkaCluster
from tests.engines.process import is_free

__all__ = ["Broker", "DynamoDBLocal", "EnginesUnavailable", "KafkaCluster"]


def main() -> None:
    options = _options()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    threading.Thread(target=_set_at_end_of_input, args=[ended], daemon=True).start()
    try:
        _serve(options, ended)
    except EnginesUnavailable as missing:
        sys.exit(str(missing))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.engines.real")
    parser.add_argument("--kafka-port", type=int)
    parser.add_argument("--dynamodb-port", type=int)
    parser.add_argument("--brokers", type=int, default=1)
    options = parser.parse_args()
    for port in filter(None, (options.kafka_port, options.dynamodb_port)):
        if not is_free(port):
            parser.error(f"port {port} is taken: choose another")
    return options


def _set_at_end_of_input(ended: threading.Event) -> None:
    while sys.stdin.buffer.read(1024):
        pass
    ended.set()


def _serve(options: argparse.Namespace, ended: threading.Event) -> None:
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as engines:
        kafka = engines.enter_context(
            KafkaCluster(Path(directory), options.brokers, options.kafka_port)
        )
        dynamodb = engines.enter_context(
            DynamoDBLocal(Path(directory), options.dynamodb_port)
        )
        addresses = {
            "bootstrap_servers": kafka.bootstrap_servers,
            "endpoint_url": dynamodb.endpoint_url,
        }
        sys.stdout.write(json.dumps(addresses) + "\n")
        sys.stdout.flush()
        ended.wait()


if __name__ == "__main__":
    main()
