"""The lock file of a checkout."""

from __future__ import annotations

import os

from devstack import pidfile


def test_a_pid_file_names_its_holder_while_it_is_locked(tmp_path):
    path = tmp_path / "run.pid"
    assert pidfile.holder(path) is None
    held = pidfile.acquire(path)
    assert held
    assert pidfile.holder(path) is None
    pidfile.publish(held)
    assert pidfile.holder(path) == os.getpid()
    assert pidfile.acquire(path) is None
    held.close()
    assert pidfile.holder(path) is None
