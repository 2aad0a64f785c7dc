"""The Compose files, checked without an engine.

In comes the model that a real parser of the Compose specification resolves the files to:
Docker Compose where it is there, else compose-go, which it is built on, where Go is.
What is asserted is what the rest of the project relies on. Knows nothing of whether the
images start. `make check` runs it, `make test` does not: Go may have to fetch compose-go.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parent.parent
BASE = str(ROOT / "docker-compose.yml")
LOCALSTACK = str(ROOT / "docker-compose.localstack.yml")
COMPLETED = "service_completed_successfully"


def docker_compose_is_there() -> bool:
    version = ["docker", "compose", "version"]
    return bool(shutil.which("docker")) and run(version).returncode == 0


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT / "tests" / "compose",
        env={k: v for k, v in os.environ.items() if not k.startswith("COMPOSE_")},
        capture_output=True,
        text=True,
        check=False,
    )


DOCKER_COMPOSE = docker_compose_is_there()

if not (DOCKER_COMPOSE or shutil.which("go")):
    reason = "the Compose files were not checked: that takes Docker Compose or Go"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)


@cache
def resolve(*files: str, profile: str) -> dict[str, Any]:
    if DOCKER_COMPOSE:
        options = [f"--file={file}" for file in files] + [f"--profile={profile}"]
        found = run(["docker", "compose", *options, "config", "--format=json"])
    else:
        found = run(["go", "run", ".", f"-profile={profile}", *files])
    assert found.returncode == 0, found.stderr
    model: dict[str, Any] = json.loads(found.stdout)
    return model


@pytest.fixture(params=["engines", "app"])
def profile(request):
    return request.param


@pytest.fixture(params=[(BASE,), (BASE, LOCALSTACK)], ids=["base", "localstack"])
def model(request, profile):
    return resolve(*request.param, profile=profile)


@pytest.fixture
def base():
    return resolve(BASE, profile="app")


@pytest.fixture
def localstack():
    return resolve(BASE, LOCALSTACK, profile="app")


def test_every_port_is_published_on_loopback_only(model, profile):
    published = {
        name: [(port["host_ip"], int(port["published"])) for port in service["ports"]]
        for name, service in model["services"].items()
        if service.get("ports")
    }
    ports = {"kafka": 9092, "kafka-ui": 8080, "dynamodb": 4566}
    ports |= {"web": 3000} if profile == "app" else {}
    assert published == {name: [("127.0.0.1", port)] for name, port in ports.items()}


def test_every_image_is_pinned_by_its_tag(model):
    for name, service in model["services"].items():
        tag = service["image"].rpartition("/")[2].partition(":")[2]
        assert tag not in ("", "latest"), name


def test_whatever_has_a_port_has_a_health_check(model):
    for name, service in model["services"].items():
        if service.get("ports"):
            assert service["healthcheck"]["test"][0] == "CMD", name


def test_a_service_that_ends_is_waited_for_by_one_that_stays(model):
    """Docker Compose's `up --wait` takes any other exit, even 0, for a failure."""
    services = model["services"]
    waited_for = {
        dependency
        for service in services.values()
        for dependency, how in (service.get("depends_on") or {}).items()
        if how["condition"] == COMPLETED
    }
    staying = {"kafka", "kafka-ui", "dynamodb", "web", "consumer"}
    assert set(services) - staying == waited_for
    assert "provision" in services["kafka-ui"]["depends_on"]


def test_provisioning_runs_once_the_engines_are_healthy(model):
    provision = model["services"]["provision"]
    assert provision["command"] == ["python", "manage.py", "provision"]
    assert provision.get("restart", "no") == "no"
    engines = {name: how["condition"] for name, how in provision["depends_on"].items()}
    assert engines == {"kafka": "service_healthy", "dynamodb": "service_healthy"}


def test_consumers_can_be_scaled(base):
    assert not {"container_name", "hostname", "ports"} & set(
        base["services"]["consumer"]
    )


@pytest.mark.parametrize("name", ["web", "consumer"])
def test_what_is_in_hand_can_be_finished(base, name):
    """Compose writes a duration as 1m30s."""
    grace = base["services"][name]["stop_grace_period"]
    minutes, seconds = grace.rstrip("s").rpartition("m")[::2]
    assert int(minutes or 0) * 60 + int(seconds) >= 15


def test_the_page_is_open_to_the_network_of_the_host_s_curl(base):
    (subnet,) = base["networks"]["default"]["ipam"]["config"]
    web = base["services"]["web"]["environment"]
    assert web["DJANGO_OPEN_PEERS"] == subnet["subnet"]
    assert web["DJANGO_DEBUG"] == "1"


def test_containers_reach_the_engines_at_their_inner_addresses(base):
    services = base["services"]
    listeners = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    for name in ("provision", "web", "consumer"):
        environment = services[name]["environment"]
        inner = environment["KAFKA_BOOTSTRAP_SERVERS"]
        assert f"INNER://{inner}" in listeners.split(","), name
        dynamodb = urlsplit(environment["DYNAMODB_ENDPOINT_URL"])
        assert (dynamodb.hostname, dynamodb.port) == ("dynamodb", 4566), name


def test_kafka_keeps_its_log_and_creates_no_topic_unasked(base):
    kafka = base["services"]["kafka"]
    assert kafka["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    (volume,) = kafka["volumes"]
    assert volume["type"] == "volume"
    assert volume["target"] == kafka["environment"]["KAFKA_LOG_DIRS"]


def test_dynamodb_keeps_one_table_for_all_on_a_volume_made_its_user_s(base):
    dynamodb = base["services"]["dynamodb"]
    (volume,) = dynamodb["volumes"]
    assert "-sharedDb" in dynamodb["command"]
    assert ("-port", "4566") in pairwise(dynamodb["command"])
    assert ("-dbPath", volume["target"]) in pairwise(dynamodb["command"])
    owner = base["services"]["dynamodb-volume"]
    assert owner["volumes"] == dynamodb["volumes"]
    assert owner["image"] == dynamodb["image"]
    assert dynamodb["depends_on"]["dynamodb-volume"]["condition"] == COMPLETED


def test_localstack_takes_nothing_over_from_dynamodb_local(localstack):
    dynamodb = localstack["services"]["dynamodb"]
    assert dynamodb["image"] == "localstack/localstack:4.14.0"
    assert dynamodb["environment"]["SERVICES"] == "dynamodb"
    assert not dynamodb.get("command")
    assert not dynamodb.get("volumes")
    assert not dynamodb.get("depends_on")
    assert "dynamodb-volume" not in localstack["services"]


def test_the_log_does_not_outlive_a_table_in_memory(localstack):
    (log,) = localstack["services"]["kafka"]["volumes"]
    assert log["type"] == "tmpfs"


def test_only_the_volume_s_owner_is_set_as_root(model):
    as_someone = {name for name, s in model["services"].items() if s.get("user")}
    assert as_someone <= {"dynamodb-volume"}
