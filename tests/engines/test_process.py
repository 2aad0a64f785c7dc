"""An engine is a group of processes: harmed as one, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.engines.process import Engine, wait_until

CHECKOUT = Path(__file__).parents[2]
OWNER = """
import signal, sys
from pathlib import Path
from tests.engines.test_process import Parent
parent = Parent(Path(sys.argv[1]))
parent.start()
parent.wait_ready()
parent.suspend()
print(parent.child(), flush=True)
signal.pause()
"""


class Parent(Engine):
    """Starts a child of its own, as a server does its worker."""

    def __init__(self, directory: Path) -> None:
        super().__init__("parent", directory)

    def command(self) -> list[str]:
        return ["sh", "-c", "sleep 600 & echo $!; wait"]

    def is_ready(self) -> bool:
        return self.log.read_bytes().endswith(b"\n")

    def child(self) -> int:
        return int(self.log.read_text().split()[-1])


def is_gone(pid: int) -> bool:
    """Whether it runs no more; a zombie waits for init, which may be a slow one."""
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        state = subprocess.run(
            ["/bin/ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True
        )
        return state.stdout.strip()[:1] in ("", "Z")
    return True


def test_a_kill_takes_the_children_along(tmp_path):
    parent = Parent(tmp_path)
    parent.start()
    parent.wait_ready()
    parent.kill()
    assert not parent.running
    wait_until(lambda: is_gone(parent.child()), 10, "the child still runs")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_the_owner_though_it_is_suspended(tmp_path, number):
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as owner:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        owner.send_signal(number)
    wait_until(lambda: is_gone(child), 10, "the child still runs")
