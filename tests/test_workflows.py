"""What runs elsewhere: workflows, hooks and update bots, held to schemas and to make.

They are read, not run: what they call has to exist, and to be what `make` calls.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


CI = load(ROOT / ".github/workflows/ci.yml")
STEPS = [step for job in CI["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("custom.github-workflows-require-timeout", WORKFLOWS),
        ("vendor.dependabot", [ROOT / ".github/dependabot.yml"]),
    ],
)
def test_a_file_is_what_its_schema_allows(schema, files):
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    said = subprocess.run([*check, *map(str, files)], capture_output=True, text=True)
    assert said.returncode == 0, said.stdout


def test_ci_runs_what_the_local_ci_runs():
    local = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / ".ci/run").read_text()))
    here = {
        match
        for step in STEPS
        for match in re.findall(r"^make ([a-z-]+)$", step.get("run", ""))
    }
    assert here == local


@pytest.mark.parametrize("job", ["check", "test"])
def test_ci_runs_on_every_python_that_the_package_names(job):
    classifiers = PROJECT["project"]["classifiers"]
    named = [c.rpartition(" ")[2] for c in classifiers if "Python :: 3." in c]
    assert CI["jobs"][job]["strategy"]["matrix"]["python"] == named
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"


def test_actions_are_pinned_by_commit():
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", each) for each in used)


def test_hooks_run_what_make_check_runs():
    [repo] = load(ROOT / ".pre-commit-config.yaml")["repos"]
    check = MAKEFILE.partition("\ncheck:")[2].partition("\n\n")[0]
    entries = {hook["id"]: hook["entry"] for hook in repo["hooks"]}
    documents = entries.pop("documents")
    assert (ROOT / documents.split()[-1]).exists()
    for entry in entries.values():
        assert entry.removeprefix("env DJANGO_DEBUG=1 ") in check


def test_the_development_container_makes_what_exists():
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    for target in re.findall(r"make ([a-z-]+)", container["postCreateCommand"]):
        assert f"\n{target}:" in MAKEFILE


@pytest.mark.parametrize("update", load(ROOT / ".github/dependabot.yml")["updates"])
def test_the_update_bot_looks_where_something_is(update):
    for directory in update.get("directories", [update.get("directory")]):
        assert (ROOT / directory.strip("/")).is_dir()
