"""Apache Kafka: a cluster of KRaft brokers on loopback, each its own process.

A directory in, bootstrap servers out; the records in the directory outlive every
start, stop and kill. Knows no topic.
"""

from __future__ import annotations

import base64
import contextlib
import subprocess
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.engines.jars import jvm
from tests.engines.process import Engine, free_port

LOGGING = [
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config.AbstractConfig=warn",
]


class Broker(Engine):
    """One KRaft node of a cluster, broker and controller in one process."""

    def __init__(
        self, directory: Path, node: int, port: int, properties: Mapping[str, object]
    ) -> None:
        super().__init__(f"kafka-{node}", directory)
        self.node = node
        self.address = f"127.0.0.1:{port}"
        self._data = Path(str(properties["log.dirs"]))
        self._properties = directory / f"{self.name}.properties"
        self._properties.write_text(
            "".join(f"{name}={value}\n" for name, value in properties.items())
        )

    def format(self, cluster_id: str) -> None:
        """Prepare the log directory, unless it is one from an earlier run."""
        if (self._data / "meta.properties").exists():
            return
        tool = ["kafka.tools.StorageTool", "format"]
        options = [f"--cluster-id={cluster_id}", f"--config={self._properties}"]
        with self.log.open("ab") as log:
            subprocess.run(
                [*self._java(), *tool, *options], check=True, stdout=log, stderr=log
            )

    def command(self) -> list[str]:
        return [*self._java(), "kafka.Kafka", str(self._properties)]

    def is_ready(self) -> bool:
        """Whether it shows itself: a fenced broker isn't in its own metadata."""
        admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
        with contextlib.suppress(KafkaException):
            return self.node in admin.list_topics(timeout=1).brokers
        return False

    def partition_log(self, topic: str, partition: int) -> Path:
        """The file with a partition's first records, to be harmed while nobody runs."""
        return self._data / f"{topic}-{partition}" / f"{0:020}.log"

    @staticmethod
    def _java() -> list[str]:
        return [*jvm("kafka"), *LOGGING]


class KafkaCluster:
    """One broker or several; `properties` are added to every broker's own."""

    def __init__(
        self,
        directory: Path,
        brokers: int = 1,
        port: int | None = None,
        properties: Mapping[str, object] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        ports = [port or free_port(), *(free_port() for _ in range(brokers - 1))]
        controllers = [free_port() for _ in range(brokers)]
        voters = ",".join(
            f"{node}@127.0.0.1:{controller}"
            for node, controller in enumerate(controllers, 1)
        )
        self._cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[:22]
        self.brokers = [
            Broker(
                directory,
                node,
                ports[node - 1],
                _node_properties(directory, node, ports[node - 1], voters)
                | _cluster_properties(brokers)
                | dict(properties or {}),
            )
            for node in range(1, brokers + 1)
        ]

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(broker.address for broker in self.brokers)

    def start(self) -> None:
        for broker in self.brokers:
            broker.format(self._cluster_id)
            broker.start()

    def wait_ready(self, timeout_s: float = 60) -> None:
        for broker in self.brokers:
            broker.wait_ready(timeout_s)

    def stop(self) -> None:
        """End all at once; one after the other the last would wait for a quorum."""
        for broker in self.brokers:
            broker.terminate()
        for broker in self.brokers:
            broker.stop()

    def kill(self) -> None:
        for broker in self.brokers:
            broker.kill()

    def restart(self) -> None:
        self.stop()
        self.start()
        self.wait_ready()

    def __enter__(self) -> Self:
        self.start()
        self.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _node_properties(
    directory: Path, node: int, port: int, voters: str
) -> dict[str, object]:
    controller = voters.split(",")[node - 1].partition("@")[2]
    return {
        "node.id": node,
        "process.roles": "broker,controller",
        "listeners": f"BROKER://127.0.0.1:{port},CONTROLLER://{controller}",
        "advertised.listeners": f"BROKER://127.0.0.1:{port}",
        "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "BROKER",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": voters,
        "log.dirs": directory / f"kafka-{node}",
    }


def _cluster_properties(brokers: int) -> dict[str, object]:
    """As in production where it decides what is lost, small where it costs time."""
    replicas = min(3, brokers)
    in_sync = min(2, brokers)
    return {
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": 3,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": 3,
        # A killed broker is let in again when its old session is over, and a
        # follower's death holds up acks=all for as long.
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        "group.consumer.session.timeout.ms": 6000,
        "group.consumer.min.session.timeout.ms": 1000,
        "group.consumer.heartbeat.interval.ms": 1000,
        "group.consumer.min.heartbeat.interval.ms": 500,
        "num.network.threads": 2,
        "num.io.threads": 4,
        "log.cleaner.dedupe.buffer.size": 4 * 1024 * 1024,
    }


def unregister(broker: Broker) -> None:
    """Have the cluster forget a broker, which runs on; started again, it is back."""
    program = Path(__file__).with_name("Unregister.java")
    subprocess.run(
        [*jvm("kafka"), str(program), broker.address, str(broker.node)],
        capture_output=True,
        check=True,
    )


def murmur2_partitions(keys: Iterable[bytes], partitions: int) -> list[int]:
    """The partition that Kafka's own Java producer picks for each key."""
    program = Path(__file__).with_name("Murmur2Partition.java")
    done = subprocess.run(
        [*jvm("kafka"), str(program), str(partitions)],
        input="".join(f"{key.hex()}\n" for key in keys),
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(line) for line in done.stdout.split()]


def java_produced(
    bootstrap_servers: str, topic: str, records: Iterable[tuple[bytes, bytes]]
) -> list[int]:
    """Have Kafka's own Java producer put keys and values there; returns partitions."""
    program = Path(__file__).with_name("JavaProducer.java")
    done = subprocess.run(
        [*jvm("kafka"), str(program), bootstrap_servers, topic],
        input="".join(f"{key.hex()} {value.hex()}\n" for key, value in records),
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(line) for line in done.stdout.split()]
