"""Peer (f): the limit of the write side: boto3, and nothing else.

`raw_writes.py partiql|transact FILE SECONDS`: writes the file's updates to items that
exist, in calls that are made up beforehand, CALLS at a time. Every write is the product's:
the fields, UpdatedAt, and a fence of its own, on which it is conditional, as on the mark
that the items have. Prints JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
from botocore.config import Config

TABLE = os.environ["DYNAMODB_TABLE"]
CALLS = int(os.environ["CALLS"])
FENCE = "_fence:raw-loop-of-its-own-0:0"  # as long as the product's
MARK = "_incarnation"
UPDATED_AT = {"S": "2026-11-24T12:00:00.000+00:00"}

client = boto3.client(
    "dynamodb",
    endpoint_url=os.environ["DYNAMODB_ENDPOINT_URL"],
    region_name="us-east-1",
    aws_access_key_id="test",
    aws_secret_access_key="test",
    config=Config(parameter_validation=False, retries={"total_max_attempts": 1}),
)


def mark_of(patient: str) -> dict[str, str]:
    """The mark that every item of the product has."""
    key = {"PatientId": {"S": patient}}
    return client.get_item(TableName=TABLE, Key=key)["Item"][MARK]


def statement(
    profile: dict[str, str], mark: dict[str, str], offset: dict[str, str]
) -> dict[str, object]:
    fields = {n: {"S": v} for n, v in profile.items() if n != "PatientId"}
    written = {**fields, "UpdatedAt": UPDATED_AT, FENCE: offset}
    sets = " ".join(f'SET "{name}"=?' for name in written)
    return {
        "Statement": f'UPDATE "{TABLE}" {sets} WHERE "PatientId"=? '
        f'AND "{MARK}"=? AND NOT ("{FENCE}" IS NOT MISSING AND NOT "{FENCE}" < ?)',
        "Parameters": [*written.values(), {"S": profile["PatientId"]}, mark, offset],
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


def update(
    profile: dict[str, str], mark: dict[str, str], offset: dict[str, str]
) -> dict[str, object]:
    names = [name for name in profile if name != "PatientId"]
    return {
        "Update": {
            "TableName": TABLE,
            "Key": {"PatientId": {"S": profile["PatientId"]}},
            "UpdateExpression": "SET #f = :f, UpdatedAt = :u, "
            + ", ".join(f"#{name} = :{name}" for name in names),
            "ConditionExpression": "#m = :m AND (attribute_not_exists(#f) OR #f < :f)",
            "ExpressionAttributeNames": {
                "#f": FENCE,
                "#m": MARK,
                **{f"#{n}": n for n in names},
            },
            "ExpressionAttributeValues": {
                ":f": offset,
                ":m": mark,
                ":u": UPDATED_AT,
                **{f":{name}": {"S": profile[name]} for name in names},
            },
        }
    }


def partiql(chunk: list[dict[str, object]]) -> int:
    answer = client.batch_execute_statement(Statements=chunk)
    return sum("Error" not in response for response in answer["Responses"])


def transact(chunk: list[dict[str, object]]) -> int:
    client.transact_write_items(TransactItems=chunk)
    return len(chunk)


def main() -> None:
    form, file, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    profiles = [json.loads(line) for line in file.read_bytes().splitlines()]
    build, write, size = {
        "partiql": (statement, partiql, 25),
        "transact": (update, transact, 100),
    }[form]
    offset: dict[str, str] = {}  # one for all: each round moves it on
    mark = mark_of(profiles[0]["PatientId"])
    writes = [build(profile, mark, offset) for profile in profiles]
    chunks = [writes[i : i + size] for i in range(0, len(writes), size)]

    def in_time(chunk: list[dict[str, object]]) -> int:
        return write(chunk) if time.monotonic() < deadline else 0

    written = 0
    with ThreadPoolExecutor(CALLS) as pool:
        cpu, started = time.process_time(), time.monotonic()
        deadline = started + seconds
        while time.monotonic() < deadline:
            offset["N"] = str(time.time_ns())
            written += sum(pool.map(in_time, chunks))
        took_s, cpu_s = time.monotonic() - started, time.process_time() - cpu
    json.dump({"updates": written, "seconds": took_s, "cpu_s": cpu_s}, sys.stdout)


main()
