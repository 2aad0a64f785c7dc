"""The Makefile: when an environment is made, and with which environment it runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAKE = shutil.which("make") or "make"


@pytest.fixture
def checkout(tmp_path):
    """What the Makefile reads, in a folder of its own, without environments."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for pattern in ("Makefile", "requirements*.txt"):
        for path in ROOT.glob(pattern):
            shutil.copy(path, folder)
    return folder


def make(folder: Path, *arguments: str, **environ: str) -> str:
    """What make says, on either stream, of a run that may fail."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    return subprocess.run(
        [MAKE, *arguments],
        cwd=folder,
        env={**inherited, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ).stdout


def pretend_to_make_environments(folder: Path) -> None:
    for stamp in re.findall(r"^touch (\S+)", make(folder, "-n", "test"), re.MULTILINE):
        (folder / stamp).parent.mkdir(exist_ok=True)
        (folder / stamp).touch()


def test_a_fresh_checkout_makes_both_environments(checkout):
    said = make(checkout, "-n", "run")
    assert "Making .venv ..." in said
    assert "Making .venv-engines ..." in said


def test_a_complete_environment_is_not_made_again(checkout):
    pretend_to_make_environments(checkout)
    assert "Making" not in make(checkout, "-n", "run")
    assert "Adding" not in make(checkout, "-n", "test")


def test_an_incomplete_environment_is_made_again(checkout):
    (checkout / ".venv" / "bin").mkdir(parents=True)
    assert "rm -rf .venv &&" in make(checkout, "-n", "run")


@pytest.mark.parametrize(
    ("file", "remade"),
    [
        ("requirements.txt", "Making .venv ..."),
        ("requirements-dev.txt", "Adding the test tools"),
        ("requirements-engines.txt", "Making .venv-engines ..."),
    ],
)
def test_a_changed_pin_makes_the_environment_again(checkout, file, remade):
    pretend_to_make_environments(checkout)
    (checkout / file).write_text("another==1.0\n")
    assert remade in make(checkout, "-n", "test")


def test_a_moved_checkout_makes_its_environments_again(checkout):
    pretend_to_make_environments(checkout)
    moved = checkout.rename(checkout.with_name("moved"))
    said = make(moved, "-n", "run")
    assert "Making .venv ..." in said
    assert "Making .venv-engines ..." in said


def test_another_python_makes_the_environments_again(checkout):
    pretend_to_make_environments(checkout)
    another = checkout / "python"
    another.write_text("#!/bin/sh\necho /opt/another/python\n")
    another.chmod(0o755)
    assert "Making .venv ..." in make(checkout, "-n", "run", f"PYTHON={another}")


@pytest.mark.parametrize("python", ["/bin/false", "no-such-python"])
def test_an_unusable_python_is_named_with_what_to_do(checkout, python):
    said = make(checkout, "run", f"PYTHON={python}")
    assert f"'{python}' is not Python 3.11 or newer" in said
    assert "make run PYTHON=" in said
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("target", ["run", "test", "test-real", "local-dev-stack"])
def test_no_inherited_kafka_or_dynamodb_reaches_a_run_or_a_test(checkout, target):
    said = make(
        checkout,
        "-n",
        target,
        KAFKA_BOOTSTRAP_SERVERS="kafka.example.org:9092",
        DYNAMODB_TABLE="production",
        AWS_PROFILE="production",
        KAFKA_PORT="19092",
        DYNAMODB_PORT="14566",
    )
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "DYNAMODB_TABLE", "AWS_PROFILE"):
        assert f"-u{name}" in said
    assert "-uKAFKA_PORT" not in said
    assert "-uDYNAMODB_PORT" not in said


@pytest.mark.parametrize("target", ["run", "local-dev-stack", "local-dev-stack-down"])
def test_the_development_stack_is_development_whatever_the_shell_says(checkout, target):
    said = make(checkout, "-n", target, DJANGO_DEBUG="0")
    assert "DJANGO_DEBUG=1 .venv/bin/python manage.py run_local" in said


@pytest.mark.parametrize(
    ("debug", "server"), [("1", "runserver"), ("0", "serve"), ("false", "serve")]
)
def test_run_producer_uses_the_production_server_outside_development(
    checkout, debug, server
):
    pretend_python(checkout, "ran $*")
    said = make(checkout, "run-producer", DJANGO_DEBUG=debug)
    assert f"ran manage.py {server}\n" in said


def pretend_python(folder: Path, says: str) -> None:
    """Environments whose Python says something, and runs nothing."""
    pretend_to_make_environments(folder)
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\necho "{says}"\n')
    python.chmod(0o755)


@pytest.mark.parametrize("target", ["run-producer", "run-consumer"])
@pytest.mark.parametrize(
    ("environ", "addresses"),
    [
        ({}, "- -"),
        ({"KAFKA_PORT": "19092"}, "127.0.0.1:19092 -"),
        ({"DYNAMODB_PORT": "14566"}, "- http://127.0.0.1:14566"),
        (
            {"KAFKA_PORT": "19092", "KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"},
            "kafka:9092 -",
        ),
    ],
    ids=str,
)
def test_run_producer_and_run_consumer_use_the_moved_ports(
    checkout, target, environ, addresses
):
    pretend_python(
        checkout, "${KAFKA_BOOTSTRAP_SERVERS:--} ${DYNAMODB_ENDPOINT_URL:--}"
    )
    assert f"{addresses}\n" in make(checkout, target, **environ)


def test_help_lists_the_targets(checkout):
    said = make(checkout)
    for target in ("run", "test", "local-dev-stack", "mod-tidy", "mod-dl"):
        assert re.search(rf"^{target} +\w", said, re.MULTILINE)


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def group(name: str) -> list[str]:
    """The requirements of a dependency group, and of the groups that it includes."""
    found: list[str] = []
    for each in PROJECT["dependency-groups"][name]:
        found += [each] if isinstance(each, str) else group(each["include-group"])
    return found


RUN = PROJECT["project"]["dependencies"]
EXTRAS = [
    each
    for extra in PROJECT["project"]["optional-dependencies"].values()
    for each in extra
]
LOCKED = {
    "requirements.txt": RUN,
    "requirements-dev.txt": [*RUN, *EXTRAS, *group("dev")],
    "requirements-engines.txt": group("engines"),
}
locked = pytest.mark.parametrize("file", LOCKED)


def pins(text: str) -> set[str]:
    """Each `name==version`, without extras and markers."""
    text = re.sub(r"\[[^]]*\]", "", text.lower())
    return set(re.findall(r"^[\w.-]+==[\w.+!]+", text, re.MULTILINE))


@locked
def test_what_is_required_is_what_make_mod_tidy_pinned(file):
    required = pins("\n".join(LOCKED[file]))
    assert len(required) == len(LOCKED[file])  # each by its exact version
    assert required <= pins((ROOT / file).read_text())


@locked
def test_every_pin_has_its_hashes(file):
    entries = re.split(r"\n(?=\w)", (ROOT / file).read_text())
    assert [each for each in entries if "--hash=sha256:" not in each][1:] == []


def test_the_service_and_its_tools_have_the_same_pins():
    service = pins((ROOT / "requirements.txt").read_text())
    assert service <= pins((ROOT / "requirements-dev.txt").read_text())


def test_only_hashed_packages_are_installed():
    installs = [
        line
        for name in ("Makefile", "Dockerfile")
        for line in (ROOT / name).read_text().splitlines()
        if re.search(r"pip install .*requirement", line)
    ]
    assert len(installs) == 4
    assert all("--require-hashes" in line for line in installs)


def test_a_build_uses_the_pinned_backend():
    assert set(PROJECT["build-system"]["requires"]) <= set(group("dev"))
