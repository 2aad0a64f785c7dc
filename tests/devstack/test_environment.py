"""The ports and the environment of a run."""

from __future__ import annotations

import os
import socket

import pytest

from devstack.environment import Ports, environment
from devstack.supervisor import RunFailed
from tests.engines.process import free_port

PORTS = Ports(web=3001, kafka=9093, dynamodb=4567)


def test_nothing_inherited_names_a_kafka_or_a_dynamodb():
    inherited = {
        "PATH": "/bin",
        "KAFKA_BOOTSTRAP_SERVERS": "kafka.example.org:9092",
        "KAFKA_CONFIG": '{"sasl.password": "secret"}',
        "KAFKA_TOPIC": "production",
        "DYNAMODB_TABLE": "production",
        "DYNAMODB_ENDPOINT_URL": "",
        "AWS_PROFILE": "production",
        "AWS_SESSION_TOKEN": "token",
    }
    environ = environment(PORTS, inherited)
    assert "production" not in environ.values()
    assert "token" not in environ.values()
    assert environ["PATH"] == "/bin"
    assert environ["KAFKA_BOOTSTRAP_SERVERS"] == "127.0.0.1:9093"
    assert environ["DYNAMODB_ENDPOINT_URL"] == "http://127.0.0.1:4567"
    assert environ["AWS_CONFIG_FILE"] == os.devnull


def test_the_environment_of_a_run_is_its_own_environment():
    environ = environment(PORTS, {"PATH": "/bin"})
    assert Ports.of(environ) == PORTS
    assert environment(PORTS, environ) == environ


def test_ports_are_the_usual_ones_where_no_variable_moves_them():
    assert Ports.of({"PORT": ""}) == Ports(3000, 9092, 4566)


@pytest.mark.parametrize("text", ["web", "0", "65536", "-1", "80.5"])
def test_what_is_no_port_is_refused_by_the_variables_name(text):
    with pytest.raises(RunFailed, match="KAFKA_PORT"):
        Ports.of({"KAFKA_PORT": text})


@pytest.mark.parametrize(
    ("field", "variable"),
    [("web", "PORT"), ("kafka", "KAFKA_PORT"), ("dynamodb", "DYNAMODB_PORT")],
)
@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_a_taken_port_is_named_with_the_variable_that_moves_it(field, variable, host):
    numbers = {name: free_port() for name in ("web", "kafka", "dynamodb")}
    ports = Ports(**numbers)
    with (
        socket.create_server((host, numbers[field])),
        pytest.raises(RunFailed, match=rf"{numbers[field]} is taken.* {variable}="),
    ):
        ports.require_free(web=True)


def test_engines_alone_need_no_port_for_the_web():
    ports = Ports(free_port(), free_port(), free_port())
    with socket.create_server(("127.0.0.1", ports.web)):
        ports.require_free(web=False)
