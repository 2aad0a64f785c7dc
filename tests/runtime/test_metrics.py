"""Metrics: the files that several processes share, and the consumer's port."""

from __future__ import annotations

import requests

from profiles.runtime import metrics
from tests.engines.process import free_port


def test_figures_that_were_left_over_count_no_more(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "to be set")
    (tmp_path / "counter_1.db").write_bytes(b"")
    metrics.share(tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_a_consumers_figures_are_on_a_port_of_their_own():
    port = free_port()
    metrics.serve("127.0.0.1", port)
    answer = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10)
    assert "profile_lag_records" in answer.text
