"""Peer (c): the consumer that most would write first.

One record at a time: `poll`, `table.update_item`, `commit`.
"""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime

import boto3
from confluent_kafka import Consumer

table = boto3.resource(
    "dynamodb",
    endpoint_url=os.environ["DYNAMODB_ENDPOINT_URL"],
    region_name="us-east-1",
    aws_access_key_id="test",
    aws_secret_access_key="test",
).Table(os.environ["DYNAMODB_TABLE"])

consumer = Consumer(
    {
        "bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        "group.id": os.environ["KAFKA_GROUP_ID"],
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "session.timeout.ms": 6000,
    }
)

running = True


def stop(*_: object) -> None:
    global running
    running = False


signal.signal(signal.SIGTERM, stop)
consumer.subscribe([os.environ["KAFKA_TOPIC"]])
while running:
    message = consumer.poll(0.5)
    if message is None or message.error():
        continue
    profile = json.loads(message.value())
    patient_id = profile.pop("PatientId")
    profile["UpdatedAt"] = datetime.now(UTC).isoformat()
    table.update_item(
        Key={"PatientId": patient_id},
        UpdateExpression="SET " + ", ".join(f"#{name} = :{name}" for name in profile),
        ExpressionAttributeNames={f"#{name}": name for name in profile},
        ExpressionAttributeValues={f":{name}": profile[name] for name in profile},
    )
    consumer.commit(message, asynchronous=False)
consumer.close()
