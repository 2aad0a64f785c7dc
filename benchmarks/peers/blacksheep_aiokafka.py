"""Peer (j): BlackSheep, msgspec and aiokafka: the least CPU that we found in Python.

`POST /patientprofile` takes one update, validates as the project does, and answers once
all in-sync replicas have acknowledged. Run it with uvicorn, as (b).
"""

from __future__ import annotations

import os
from datetime import date
from typing import Annotated, Literal

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from blacksheep import Application, Content, Request, Response
from msgspec import UNSET, Meta, UnsetType

TOPIC = os.environ["KAFKA_TOPIC"]
TOPIC_ID = "AAAAAAAAAAAAAAAAAAAAAA"  # as long as a real one
EMAIL = r"(?a)^[\w+-]++(?:\.[\w+-]++)*+@(?:[a-z0-9-]{1,63}+\.)++[a-z]{2,24}$"
NO_CONTROLS = r"^[^\x00-\x1f\x7f-\x9f]*$"
LINES = r"^[^\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"


def text(longest: int, pattern: str = NO_CONTROLS) -> object:
    return Annotated[str, Meta(min_length=1, max_length=longest, pattern=pattern)]


class PatientProfile(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    PatientId: text(128)
    FirstName: text(100) | None | UnsetType = UNSET
    LastName: text(100) | None | UnsetType = UNSET
    DateOfBirth: date | None | UnsetType = UNSET
    Sex: Literal["Female", "Male", "Other", "Unknown"] | None | UnsetType = UNSET
    IsPregnant: Literal["True", "False"] | None | UnsetType = UNSET
    Email: text(254, EMAIL) | None | UnsetType = UNSET
    Phone: text(32) | None | UnsetType = UNSET
    Address: text(500, LINES) | None | UnsetType = UNSET


class Receipt(msgspec.Struct, gc=False):
    PatientId: str
    Partition: int
    Offset: int
    Receipt: str


read = msgspec.json.Decoder(PatientProfile).decode
write = msgspec.json.Encoder().encode

app = Application()


@app.lifespan
async def producing():
    app.producer = AIOKafkaProducer(
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        acks="all",
        enable_idempotence=True,
    )
    async with app.producer:
        yield


@app.router.post("/patientprofile")
async def post_one(request: Request) -> Response:
    try:
        profile = read(await request.read())
    except msgspec.DecodeError:
        return Response(400)
    patient_id = profile.PatientId
    try:
        record = await app.producer.send_and_wait(
            TOPIC, write(profile), patient_id.encode()
        )
    except KafkaError:
        return Response(503)
    name = f"{TOPIC_ID}.{record.partition}.{record.offset}"
    receipt = Receipt(patient_id, record.partition, record.offset, name)
    return Response(202, content=Content(b"application/json", write(receipt)))
