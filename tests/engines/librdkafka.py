"""A producer below confluent-kafka: a header's name may be any bytes, as in C or Go."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import confluent_kafka

_END, _TOPIC, _VALUE, _KEY, _MSGFLAGS, _HEADER = 0, 1, 4, 5, 7, 9
_PRODUCER, _COPY = 0, 2


def _library() -> ctypes.CDLL:
    """The one that confluent-kafka brings."""
    beside = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    library = ctypes.CDLL(str(next(beside.glob("librdkafka-*"))))
    library.rd_kafka_conf_new.restype = ctypes.c_void_p
    library.rd_kafka_new.restype = ctypes.c_void_p
    return library


def produce(
    bootstrap_servers: str,
    topic: str,
    key: bytes,
    value: bytes,
    headers: Mapping[bytes, bytes],
) -> None:
    """Put one record on the topic, and wait until Kafka has it."""
    kafka, text = _library(), ctypes.create_string_buffer(512)
    conf = ctypes.c_void_p(kafka.rd_kafka_conf_new())
    config = {
        b"bootstrap.servers": bootstrap_servers.encode(),
        b"partitioner": b"murmur2_random",
    }
    for name, told in config.items():
        kafka.rd_kafka_conf_set(conf, name, told, text, len(text))
    producer = ctypes.c_void_p(kafka.rd_kafka_new(_PRODUCER, conf, text, len(text)))
    arguments: list[object] = [_TOPIC, topic.encode(), _MSGFLAGS, _COPY]
    arguments += [_KEY, key, ctypes.c_size_t(len(key))]
    arguments += [_VALUE, value, ctypes.c_size_t(len(value))]
    for name, told in headers.items():
        arguments += [_HEADER, name, told, ctypes.c_ssize_t(len(told))]
    failed = kafka.rd_kafka_producev(producer, *arguments, _END)
    left = kafka.rd_kafka_flush(producer, 10_000)
    kafka.rd_kafka_destroy(producer)
    if failed or left:
        raise RuntimeError(f"Kafka did not take the record ({failed}, {left})")
