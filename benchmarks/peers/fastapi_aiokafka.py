"""Peer (b): FastAPI and aiokafka, which many would pick for speed.

`POST /patientprofile` takes one update, `POST /patientprofiles` an array; both answer
once the broker has acknowledged with acks=all. It is idempotent, unless IDEMPOTENT=0:
aiokafka can't be on Tansu. Run it with uvicorn:

    uvicorn --app-dir benchmarks/peers --loop uvloop --http httptools \
        --no-access-log fastapi_aiokafka:app
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from typing import Annotated, Literal

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import RecordMetadata
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, EmailStr, Field, StringConstraints

TOPIC = os.environ["KAFKA_TOPIC"]
TOPIC_ID = "AAAAAAAAAAAAAAAAAAAAAA"  # as long as a real one
MANY = 10_000


NO_CONTROLS = r"^[^\x00-\x1f\x7f-\x9f]*$"
LINES = r"^[^\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"


def text(longest: int, pattern: str = NO_CONTROLS) -> object:
    return Annotated[
        str,
        StringConstraints(
            strict=True, min_length=1, max_length=longest, pattern=pattern
        ),
    ]


class PatientProfile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    PatientId: text(128)
    FirstName: text(100) | None = None
    LastName: text(100) | None = None
    DateOfBirth: date | None = None
    Sex: Literal["Female", "Male", "Other", "Unknown"] | None = None
    IsPregnant: Literal["True", "False"] | None = None
    Email: Annotated[EmailStr, StringConstraints(max_length=254)] | None = None
    Phone: text(32) | None = None
    Address: text(500, LINES) | None = None

    def record(self) -> tuple[bytes, bytes]:
        return self.PatientId.encode(), self.model_dump_json(
            exclude_unset=True
        ).encode()


class Receipt(BaseModel):
    PatientId: str
    Partition: int
    Offset: int
    Receipt: str


def receipt(profile: PatientProfile, place: RecordMetadata) -> Receipt:
    return Receipt(
        PatientId=profile.PatientId,
        Partition=place.partition,
        Offset=place.offset,
        Receipt=f"{TOPIC_ID}.{place.partition}.{place.offset}",
    )


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.producer = AIOKafkaProducer(
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        acks="all",
        enable_idempotence=os.environ.get("IDEMPOTENT") != "0",
    )
    await app.state.producer.start()
    yield
    await app.state.producer.stop()


app = FastAPI(lifespan=lifespan)


@app.get("/livez")
async def live() -> dict[str, str]:
    return {"status": "alive"}


@app.post("/patientprofile", status_code=202)
async def post_one(profile: PatientProfile) -> Receipt:
    key, value = profile.record()
    try:
        place = await app.state.producer.send_and_wait(TOPIC, value, key)
    except KafkaError as error:
        raise HTTPException(503) from error
    return receipt(profile, place)


@app.post("/patientprofiles", status_code=202)
async def post_many(
    profiles: Annotated[list[PatientProfile], Field(max_length=MANY)],
) -> list[Receipt]:
    sent = []
    for profile in profiles:
        key, value = profile.record()
        sent.append(await app.state.producer.send(TOPIC, value, key))
    try:
        places = await asyncio.gather(*sent)
    except KafkaError as error:
        raise HTTPException(503) from error
    return [
        receipt(profile, place) for profile, place in zip(profiles, places, strict=True)
    ]
