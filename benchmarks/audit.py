"""How long the audit of a large table takes, and how much memory.

    python -m benchmarks.audit [--engines real] [--records 1000000] [--patients 100000]

Fills a topic with updates and the table with the items that they fold to, as a
consumer that is caught up leaves them, then runs `manage.py audit_profiles` and prints
one line of JSON: seconds and peak memory of that process (Linux), and what it found. Imports
nothing of the product.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from confluent_kafka import (
    Consumer,
    KafkaError,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from tests import stack
from tests.stack import MANAGE, TABLE, TOPIC, Stack

FIELDS = ("FirstName", "LastName", "Phone", "Address", "Email")
PARTITIONS = 12
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", choices=["embedded", "real"], default="embedded")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--patients", type=int, default=100_000)
    parser.add_argument("--sample", default="1/1")
    options = parser.parse_args()
    start = {"embedded": stack.embedded, "real": stack.real}[options.engines]
    with tempfile.TemporaryDirectory() as directory, start(Path(directory)) as engines:
        post(engines, options.records, options.patients)
        items = fold(engines)
        store(engines, items)
        figures = audit(engines, options.sample)
        sys.stdout.write(json.dumps({**vars(options), **figures}) + "\n")


def post(engines: Stack, records: int, patients: int) -> None:
    """Updates of 2 or 3 fields, every patient at least once."""
    choose = random.Random(1)  # noqa: S311 the same load each time
    producer = Producer(
        {
            "bootstrap.servers": engines.bootstrap_servers,
            "partitioner": "murmur2_random",
            "linger.ms": 50,
            "queue.buffering.max.messages": 100_000,
        }
    )
    for number in range(records):
        patient = number if number < patients else choose.randrange(patients)
        names = choose.sample(FIELDS, choose.randint(2, 3))
        body = {"PatientId": f"patient-{patient}"}
        body |= {name: value_of(name, choose.randrange(1_000_000)) for name in names}
        while True:
            try:
                producer.produce(TOPIC, json.dumps(body), f"patient-{patient}")
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    if producer.flush(60):
        sys.exit("Kafka did not take all records in time")


def value_of(name: str, number: int) -> str:
    return f"p{number}@example.org" if name == "Email" else f"{name} {number}"


def fold(engines: Stack) -> dict[str, dict[str, Any]]:
    """The items as a consumer would leave them; commits the ends in its place."""
    admin = AdminClient({"bootstrap.servers": engines.bootstrap_servers})
    described = admin.describe_topics(TopicCollection([TOPIC]))[TOPIC].result(10)
    reader = Consumer(
        {
            "bootstrap.servers": engines.bootstrap_servers,
            "group.id": f"profiles-{TABLE}",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    reader.assign([TopicPartition(TOPIC, p, 0) for p in range(PARTITIONS)])
    items: dict[str, dict[str, Any]] = {}
    ends: dict[int, int] = {}
    while len(ends) < PARTITIONS:
        for message in reader.consume(1000, 1):
            if (error := message.error()) is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    ends[message.partition() or 0] = message.offset() or 0
                continue
            body = json.loads(message.value() or b"")
            item = items.setdefault(body["PatientId"], {})
            item |= {name: {"S": value} for name, value in body.items()}
            moment = EPOCH + timedelta(milliseconds=message.timestamp()[1])
            item["UpdatedAt"] = {"S": moment.isoformat(timespec="milliseconds")}
            fence = f"_fence:{described.topic_id}:{message.partition()}"
            item[fence] = {"N": str(message.offset())}
    # No mark: an operator's offsets, which count for any table.
    places = [TopicPartition(TOPIC, p, end) for p, end in ends.items()]
    reader.commit(offsets=places, asynchronous=False)
    reader.close()
    return items


def store(engines: Stack, items: dict[str, dict[str, Any]]) -> None:
    left = iter(items.values())
    batches = iter(lambda: list(islice(left, 25)), [])
    with ThreadPoolExecutor(4) as pool:
        client = engines.dynamodb()
        for _ in pool.map(lambda batch: write(client, batch), batches):
            pass


def write(client: Any, batch: list[dict[str, Any]]) -> None:
    request = {TABLE: [{"PutRequest": {"Item": item}} for item in batch]}
    if client.batch_write_item(RequestItems=request)["UnprocessedItems"]:
        sys.exit("DynamoDB did not take all items")


def audit(engines: Stack, sample: str) -> dict[str, Any]:
    command = [*MANAGE, "audit_profiles", "--json", "--sample", sample]
    started, peak_kib = time.monotonic(), 0
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, env=engines.environ, stdout=out)  # noqa: S603 our own command
        # Not ru_maxrss: a child's begins with what its parent had when it forked.
        while process.poll() is None:
            peak_kib = max(peak_kib, high_water_kib(process.pid))
            time.sleep(0.05)
        seconds = time.monotonic() - started
        out.seek(0)
        told = json.load(out)
    found = {name: tally["patients"] for name, tally in told["findings"].items()}
    return {
        "seconds": round(seconds, 1),
        "peak_mib": peak_kib // 1024,
        "items": told["items"],
        "records_read": told["records"],
        **{name: count for name, count in found.items() if count},
    }


def high_water_kib(pid: int) -> int:
    """The most memory that a process has had resident (Linux); 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) if found else 0


if __name__ == "__main__":
    main()
