"""The Dockerfile and what is sent to its builder, read as text: no engine is needed."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_image_runs_as_a_numbered_user_that_is_not_root():
    *_, user = re.findall(r"^USER (.+)$", DOCKERFILE, re.M)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_the_base_image_is_pinned_by_its_patch_release():
    (base,) = re.findall(r"^FROM (.+)$", DOCKERFILE, re.M)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)


def test_the_builder_gets_only_what_the_image_copies():
    lines = re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.M)
    copied = {name for line in lines for name in line.split()}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert not {name for name in copied if not (ROOT / name).exists()}


def test_the_image_has_no_development_stack():
    assert (ROOT / "devstack").is_dir()
    assert "devstack" not in DOCKERFILE
