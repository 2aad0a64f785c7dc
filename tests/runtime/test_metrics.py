"""Figures: what several processes count is added up, and each can be asked."""

from __future__ import annotations

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from profiles.runtime import metrics
from tests import stack
from tests.engines.process import free_port, wait_until


@pytest.fixture
def web(tmp_path):
    """Two workers, and nobody where Kafka and DynamoDB are to be."""
    nobody = f"127.0.0.1:{free_port()}"
    environ = stack.stack_on(tmp_path, nobody, f"http://{nobody}").environ
    web = stack.Web(tmp_path, environ, workers=2)
    web.start()
    try:
        wait_until(lambda: answers(web), 60, "no worker answered")
        yield web
    finally:
        web.kill()


def answers(web: stack.Web) -> bool:
    try:
        return requests.get(f"{web.url}/livez", timeout=5).ok
    except requests.ConnectionError:
        return False


def figures(address: str) -> dict[str, dict[str, float]]:
    """What an address tells: by figure, the samples by the rest of their names."""
    answer = requests.get(f"{address}/metrics", timeout=10)
    assert answer.headers["Content-Type"].startswith("text/plain")
    return {
        family.name: {
            sample.name.removeprefix(family.name) + str(sample.labels): sample.value
            for sample in family.samples
        }
        for family in text_string_to_metric_families(answer.text)
    }


def test_what_two_workers_refuse_is_added_up_whichever_is_asked(web):
    json = {"Content-Type": "application/json"}
    for _ in range(40):  # each over a connection of its own: either worker takes some
        path = f"{web.url}/patientprofile"
        answer = requests.post(path, b"{", headers=json, timeout=10)
        assert answer.status_code == 400
    told = [figures(web.url) for _ in range(10)]
    seen = [one["profile_requests_refused"] for one in told]
    assert seen == [{"_total{'status': '400'}": 40}] * 10
    # The lag is the consumers' figure; of several workers it would be several.
    assert not any(one.get("profile_lag_records") for one in told)


def test_workers_end_on_sigterm(web):
    web.terminate()
    assert web.exit_code(20) == 0
    assert not answers(web)


def test_figures_that_were_left_over_count_no_more(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "to be set")
    (tmp_path / "counter_1.db").write_bytes(b"")
    metrics.share(tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_a_consumers_figures_are_on_a_port_of_their_own():
    port = free_port()
    metrics.serve("127.0.0.1", port)
    assert "profile_lag_records" in figures(f"http://127.0.0.1:{port}")
