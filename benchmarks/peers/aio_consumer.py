"""Peer (d): a consumer on asyncio, which many would pick for speed.

aiokafka and aiobotocore: a batch's patients are written side by side, 64 at a time,
each patient's updates in order; committed once the batch is written.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import defaultdict
from datetime import UTC, datetime

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from aiokafka import AIOKafkaConsumer

IN_FLIGHT = 64
BATCH = 500
TABLE = os.environ["DYNAMODB_TABLE"]


async def write(client, profile: dict[str, str]) -> None:
    patient_id = profile.pop("PatientId")
    profile["UpdatedAt"] = datetime.now(UTC).isoformat()
    await client.update_item(
        TableName=TABLE,
        Key={"PatientId": {"S": patient_id}},
        UpdateExpression="SET " + ", ".join(f"#{name} = :{name}" for name in profile),
        ExpressionAttributeNames={f"#{name}": name for name in profile},
        ExpressionAttributeValues={f":{n}": {"S": v} for n, v in profile.items()},
    )


async def write_all(client, messages) -> None:
    by_patient = defaultdict(list)
    for message in messages:
        by_patient[message.key].append(json.loads(message.value))
    places = asyncio.Semaphore(IN_FLIGHT)

    async def in_order(profiles: list[dict[str, str]]) -> None:
        async with places:
            for profile in profiles:
                await write(client, profile)

    await asyncio.gather(*map(in_order, by_patient.values()))


async def consume() -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    consumer = AIOKafkaConsumer(
        os.environ["KAFKA_TOPIC"],
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        group_id=os.environ["KAFKA_GROUP_ID"],
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=6000,
        heartbeat_interval_ms=1000,
    )
    dynamodb = get_session().create_client(
        "dynamodb",
        endpoint_url=os.environ["DYNAMODB_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=AioConfig(max_pool_connections=IN_FLIGHT),
    )
    async with consumer, dynamodb as client:
        while not stopped.is_set():
            batches = await consumer.getmany(timeout_ms=100, max_records=BATCH)
            messages = [message for batch in batches.values() for message in batch]
            if messages:
                await write_all(client, messages)
                await consumer.commit()


asyncio.run(consume())
