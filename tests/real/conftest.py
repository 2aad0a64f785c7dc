"""Scenes share the engines of their module: each fault ends with its scene."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.real.scene import Engines, Scene, engines


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    with engines(tmp_path_factory.mktemp("engines")) as running:
        yield running


@pytest.fixture
def scene(shared: Engines) -> Iterator[Scene]:
    """Provisioned; no process of ours runs yet."""
    with ExitStack() as ends:
        scene = Scene(shared, ends, "scene")
        scene.provision()
        yield scene
