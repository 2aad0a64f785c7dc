"""All that a fault run harms: brokers, table, web processes, consumers, proxies.

A directory in; engines and processes by name out. Each consumer reaches the table
through a proxy of its own. Imports nothing of the product.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Self

from tests.chaos.proxy import Proxy
from tests.engines.process import Engine, wait_until
from tests.engines.real import DynamoDBLocal, KafkaCluster
from tests.stack import Command, Member, Web, stack_on

BROKERS = 3
WEBS = 2
MEMBERS = 3
SPARES = 1
"""Consumers that join while it runs, and leave again."""


class Deployment:
    """Up once entered, down once left."""

    def __init__(self, directory: Path) -> None:
        self.kafka = KafkaCluster(directory, BROKERS)
        self.dynamodb = DynamoDBLocal(directory)
        self.stack = stack_on(
            directory, self.kafka.bootstrap_servers, self.dynamodb.endpoint_url
        )
        self.webs = [
            Web(directory, self.stack.environ, f"web-{n + 1}") for n in range(WEBS)
        ]
        self.proxies = [Proxy(self.dynamodb.port) for _ in range(MEMBERS + SPARES)]
        self.members = [
            Member(directory, self._environ(proxy), f"consumer-{number}")
            for number, proxy in enumerate(self.proxies, 1)
        ]

    @property
    def regulars(self) -> list[Engine]:
        """What is up before the first fault, and after the last one."""
        engines = [*self.kafka.brokers, self.dynamodb]
        return [*engines, *self.webs, *self.members[:MEMBERS]]

    @property
    def harmed(self) -> list[Engine]:
        return [*self.regulars, *self.members[MEMBERS:]]

    def proxy_of(self, member: Engine) -> Proxy:
        return self.proxies[[each.name for each in self.members].index(member.name)]

    def settle(self, timeout_s: float) -> bool:
        """Bring all up and wait until the group has applied everything."""
        deadline = time.monotonic() + timeout_s
        for engine in self.harmed:
            engine.resume()
        for engine in self.regulars:
            bring_up(engine, deadline - time.monotonic())
        while (left := deadline - time.monotonic()) > 0:
            if self._run("consume_profiles", "--until-caught-up", timeout_s=left):
                return True
        return False

    def rest(self) -> None:
        """End what writes; the brokers and the table stay to be read."""
        for process in [*self.webs, *self.members]:
            process.terminate()
        for process in [*self.webs, *self.members]:
            process.stop()
        wait_until(
            lambda: not any(proxy.busy for proxy in self.proxies),
            10,
            "a call was still under way to the table",
        )

    def __enter__(self) -> Self:
        self.kafka.start()
        self.dynamodb.start()
        self.kafka.wait_ready()
        self.dynamodb.wait_ready()
        if not self._run("provision", timeout_s=60):
            raise RuntimeError(f"provision failed: see {self.stack.directory}")
        for process in [*self.webs, *self.members[:MEMBERS]]:
            process.start()
        for process in [*self.webs, *self.members[:MEMBERS]]:
            bring_up(process, timeout_s=60)
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self.harmed:
            engine.kill()
        for proxy in self.proxies:
            proxy.close()

    def _environ(self, proxy: Proxy) -> dict[str, str]:
        return {**self.stack.environ, "DYNAMODB_ENDPOINT_URL": proxy.endpoint_url}

    def _run(self, *arguments: str, timeout_s: float) -> bool:
        """Run a command to its end; whether it succeeded."""
        directory, environ = self.stack.directory, self.stack.environ
        return Command(arguments[0], directory, environ, arguments).run(timeout_s)


def bring_up(engine: Engine, timeout_s: float) -> None:
    """Start it unless it runs, again if it ends while starting; wait until ready."""
    deadline = time.monotonic() + timeout_s
    while True:
        if not engine.running:
            engine.start()
        try:
            return engine.wait_ready(max(0, deadline - time.monotonic()))
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
