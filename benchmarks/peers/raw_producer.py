"""Peer (e): the limit of the ingest side: librdkafka, and nothing else.

`raw_producer.py FILE SECONDS`: produces the file's lines, keys known beforehand, again
and again, and counts the acknowledgements. With SINGLY=1 it waits for each one before
the next. Prints JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path

from confluent_kafka import Producer

topic = os.environ["KAFKA_TOPIC"]
lines = Path(sys.argv[1]).read_bytes().splitlines()
updates = [(json.loads(line)["PatientId"].encode(), line) for line in lines]
seconds = float(sys.argv[2])
singly = os.environ.get("SINGLY") == "1"

acknowledged = 0


def count(error: object, _: object) -> None:
    global acknowledged
    acknowledged += error is None


producer = Producer(
    {
        "bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "linger.ms": 0 if singly else 5,
    }
)
producer.produce(topic, b"{}", b"first")  # connects, and learns the topic
producer.flush()

latencies = []
cpu, started = time.process_time(), time.monotonic()
for key, value in itertools.cycle(updates):
    sent = time.monotonic()
    if sent - started > seconds:
        break
    while True:
        try:
            producer.produce(topic, value, key, on_delivery=count)
            break
        except BufferError:
            producer.poll(0.01)
    if singly:
        producer.flush()
        latencies.append(time.monotonic() - sent)
    else:
        producer.poll(0)
producer.flush()

json.dump(
    {
        "updates": acknowledged,
        "seconds": time.monotonic() - started,
        "cpu_s": time.process_time() - cpu,
        "p50_s": sorted(latencies)[len(latencies) // 2] if latencies else None,
    },
    sys.stdout,
)
