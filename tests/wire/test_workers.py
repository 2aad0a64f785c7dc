"""Several web workers over the wire: their metrics are added up, SIGTERM ends them."""

from __future__ import annotations

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests import stack
from tests.engines.process import free_port, wait_until


@pytest.fixture
def web(tmp_path):
    """Two workers, without Kafka and DynamoDB."""
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
    """An address's metrics: by name, the samples by the rest of their names."""
    answer = requests.get(f"{address}/metrics", timeout=10)
    assert answer.headers["Content-Type"].startswith("text/plain")
    return {
        family.name: {
            sample.name.removeprefix(family.name) + str(sample.labels): sample.value
            for sample in family.samples
        }
        for family in text_string_to_metric_families(answer.text)
    }


def test_the_refusals_of_two_workers_are_added_up_whichever_answers(web):
    json = {"Content-Type": "application/json"}
    for _ in range(40):  # each on a new connection, so that both workers get some
        path = f"{web.url}/patientprofile"
        answer = requests.post(path, b"{", headers=json, timeout=10)
        assert answer.status_code == 400
    read = [figures(web.url) for _ in range(10)]
    seen = [one["profile_requests_refused"] for one in read]
    assert seen == [{"_total{'status': '400'}": 40}] * 10
    # Only a consumer reports lag: the sum over workers would be wrong.
    assert not any(one.get("profile_lag_records") for one in read)


def test_workers_end_on_sigterm(web):
    web.terminate()
    assert web.exit_code(20) == 0
    assert not answers(web)
