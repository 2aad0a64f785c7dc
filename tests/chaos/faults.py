"""The faults of a run: seeded lanes that harm one kind of thing each, side by side.

In: a deployment, a seed. Out: harm, and a chronicle of it. The seed settles what is
done to whom and after which pause; what it meets is up to the machine.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Event, Lock, Thread

from tests.chaos import proxy
from tests.chaos.deployment import MEMBERS, Deployment, bring_up
from tests.chaos.proxy import Proxy, one_in
from tests.engines.process import Engine

SESSION_S = 3
"""After so long the group takes a silent consumer for dead."""
READY_S = 60

Action = Callable[[], None]


class Chronicle:
    """What was done to whom, and when; a line in a file each."""

    def __init__(self, file: Path) -> None:
        self.counts: Counter[str] = Counter()
        self._file = file
        self._began = time.monotonic()
        self._lock = Lock()

    def note(self, what: str, whom: str) -> None:
        with self._lock, self._file.open("a") as lines:
            self.counts[what] += 1
            lines.write(f"{time.monotonic() - self._began:7.1f} s  {what} {whom}\n")


class Lane(Thread):
    """Harms its engines, one harm at a time, until it is over; then all are up.

    `deck` is played through in a new order each time, so that none is left out.
    """

    pauses_s: tuple[float, float]

    def __init__(
        self, engines: Sequence[Engine], seed: str, chronicle: Chronicle, over: Event
    ) -> None:
        super().__init__(name=type(self).__name__, daemon=True)
        self.engines = engines
        self.choose = random.Random(f"{seed} {self.name}")
        self.chronicle = chronicle
        self.over = over

    @property
    def deck(self) -> list[Action]:
        return [self.kill, self.kill, self.suspend, self.restart]

    def run(self) -> None:
        for action in self._actions():
            if self.over.wait(self.choose.uniform(*self.pauses_s)):
                break
            self.raise_the_dead()
            action()

    def kill(self) -> None:
        engine = self.victim()
        self.note("kill -9", engine)
        engine.kill()
        self.over.wait(self.choose.uniform(0, 3))
        self.revive(engine)

    def suspend(self) -> None:
        engine = self.victim()
        self.note("suspend", engine)
        engine.suspend()
        self.over.wait(self.choose.uniform(1, 2.5 * SESSION_S))
        engine.resume()

    def restart(self) -> None:
        engine = self.victim()
        self.note("restart", engine)
        engine.stop()
        self.revive(engine)

    def victim(self) -> Engine:
        return self.choose.choice(self.engines)

    def revive(self, engine: Engine) -> None:
        engine.start()

    def raise_the_dead(self) -> None:
        """What ended by itself is started again, as a supervisor would."""
        for engine in self.engines:
            if not engine.running:
                self.note("ended by itself", engine)
                engine.start()

    def note(self, what: str, whom: Engine) -> None:
        self.chronicle.note(what, whom.name)

    def _actions(self) -> Iterator[Action]:
        while True:
            yield from self.choose.sample(self.deck, len(self.deck))


class Webs(Lane):
    """Kill, suspend and restart the web processes."""

    pauses_s = (8, 16)


class Engines(Lane):
    """The brokers, or the table: the next harm waits until all are up again."""

    pauses_s = (5, 12)

    def revive(self, engine: Engine) -> None:
        bring_up(engine, READY_S)

    def suspend(self) -> None:
        super().suspend()
        for engine in self.engines:
            bring_up(engine, READY_S)


class Brokers(Engines):
    """Never two at a time."""

    @property
    def deck(self) -> list[Action]:
        return [*super().deck, self.flap, self.flap]

    def flap(self) -> None:
        """Frozen, back for an instant, frozen again: what was sent is sent anew."""
        broker = self.victim()
        self.note("flap", broker)
        for frozen_s in (self.choose.uniform(2, 5), self.choose.uniform(0.5, 1.5)):
            broker.suspend()
            self.over.wait(frozen_s)
            broker.resume()
            self.over.wait(self.choose.uniform(0.04, 0.3))
        bring_up(broker, READY_S)


class Tables(Engines):
    """DynamoDB."""

    pauses_s = (15, 30)


class Members(Lane):
    """The consumers; a zombie is one that is suspended with its writes on the way."""

    pauses_s = (8, 16)

    def __init__(
        self, deployment: Deployment, seed: str, chronicle: Chronicle, over: Event
    ) -> None:
        super().__init__(deployment.members[:MEMBERS], seed, chronicle, over)
        self._spares = deployment.members[MEMBERS:]
        self._proxy_of = deployment.proxy_of

    @property
    def deck(self) -> list[Action]:
        return [*super().deck, self.make_zombie, self.resize_group, self.resize_group]

    def make_zombie(self) -> None:
        """Its held writes reach the table after another member has gone on."""
        member = self.victim()
        self.note("zombie", member)
        self._proxy_of(member).hold()
        self.over.wait(0.5)
        member.suspend()
        self.over.wait(self.choose.uniform(SESSION_S + 1, 3 * SESSION_S))
        self._proxy_of(member).release()
        self.over.wait(self.choose.uniform(0, 1))
        member.resume()

    def resize_group(self) -> None:
        spare = self.choose.choice(self._spares)
        if spare.running:
            self.note("leave", spare)
            spare.stop()
        else:
            self.note("join", spare)
            spare.start()


class Store(Lane):
    """What happens to the calls on their way to the table, of one consumer or all."""

    pauses_s = (3, 8)

    def __init__(
        self, proxies: Sequence[Proxy], seed: str, chronicle: Chronicle, over: Event
    ) -> None:
        super().__init__([], seed, chronicle, over)
        self._proxies = proxies

    @property
    def deck(self) -> list[Action]:
        faults = [
            one_in(2, proxy.throttled),
            proxy.throttled,
            one_in(2, proxy.failing),
            one_in(2, proxy.unanswered),
            proxy.slow,
            proxy.swallowed,
        ]
        return [partial(self.afflict, fault) for fault in faults]

    def afflict(self, fault: proxy.Fault) -> None:
        some = self.choose.sample(
            self._proxies, self.choose.choice((1, len(self._proxies)))
        )
        self.chronicle.note(fault.__name__, f"for {len(some)} consumers")
        for each in some:
            each.fault = fault
        self.over.wait(self.choose.uniform(2, 6))
        for each in some:
            each.fault = proxy.unharmed


def lanes(
    deployment: Deployment, seed: str, chronicle: Chronicle, over: Event
) -> list[Lane]:
    common = (seed, chronicle, over)
    return [
        Brokers(deployment.kafka.brokers, *common),
        Tables([deployment.dynamodb], *common),
        Webs(deployment.webs, *common),
        Members(deployment, *common),
        Store(deployment.proxies, *common),
    ]
