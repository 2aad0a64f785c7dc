"""The package: what a wheel holds, and where its commands keep their state."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import patientsite

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built by the pinned backend from this checkout."""
    directory = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    subprocess.run([*build, "-d", str(directory)], cwd=ROOT, check=True, timeout=60)
    [built] = directory.iterdir()
    return Path(built)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The wheel's content, away from any checkout."""
    directory: Path = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory


def test_the_wheel_has_the_version(wheel):
    assert wheel.name.startswith(f"patient_profile-{patientsite.__version__}-py3")


def test_the_wheel_holds_the_two_packages_and_nothing_else(installed):
    def files(folder: Path) -> set[str]:
        return {
            str(path.relative_to(folder))
            for name in ("patientsite", "profiles")
            for path in (folder / name).rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }

    assert files(installed) == files(ROOT)
    others = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert others == {"patientsite", "profiles"}
    for marker in ("profiles/py.typed", "patientsite/py.typed"):
        assert (installed / marker).exists()


def test_the_command_is_manage_py_s(installed):
    [path] = installed.glob("*.dist-info/entry_points.txt")
    points = configparser.ConfigParser()
    points.read(path)
    command = {"patient-profile": "patientsite.__main__:main"}
    assert dict(points["console_scripts"]) == command


def run(code: Path, home: Path, *arguments: str, **environ: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "patientsite", *arguments],
        cwd=home,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONPATH": str(code),
            **environ,
        },
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    ).stdout


def test_an_installed_command_keeps_its_state_in_the_user_s_home(installed, tmp_path):
    run(installed, tmp_path, "migrate", "--verbosity", "0")
    [database] = tmp_path.rglob("*.sqlite3")
    assert database.parent == tmp_path / ".local/state/patient-profile"
    assert not [*installed.rglob("*.sqlite3")]


@pytest.mark.parametrize("file", ["profiles/profiles.css", "admin/css/base.css"])
def test_an_installed_command_finds_its_static_files(installed, tmp_path, file):
    assert file in run(installed, tmp_path, "findstatic", file)


def test_a_page_is_rendered_from_the_installed_templates(installed, tmp_path):
    program = (
        "from django.template.loader import get_template; "
        "print(get_template('profiles/list.html').origin)"
    )
    said = run(installed, tmp_path, "shell", "--no-imports", "--command", program)
    assert said.strip().startswith(str(installed))


PRODUCTION = {
    "DJANGO_DEBUG": "0",
    "DJANGO_SECRET_KEY": "".join(map(chr, range(40, 100))),
    "DJANGO_ALLOWED_HOSTS": "profiles.example.org",
    "AWS_DEFAULT_REGION": "eu-central-1",
}


def has_devstack(code: Path, home: Path, **environ: str) -> bool:
    """Whether the development stack is among the installed apps."""
    program = "from django.apps import apps; print(apps.is_installed('devstack'))"
    arguments = ["shell", "--no-imports", "--command", program]
    said = run(code, home, *arguments, VAR_DIR=str(home), **environ)
    return said.strip() == "True"


def test_the_development_stack_is_in_a_checkout_only(installed, tmp_path):
    assert has_devstack(ROOT, tmp_path)
    assert not has_devstack(installed, tmp_path)


def test_production_has_no_development_stack(tmp_path):
    assert not has_devstack(ROOT, tmp_path, **PRODUCTION)
