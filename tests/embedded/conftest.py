"""Data folders and servers on them; everything is erased afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler.embedded import Server


@pytest.fixture
def folder() -> Iterator[Path]:
    """A data folder that an unprivileged user can reach; pytest's own are private."""
    with tempfile.TemporaryDirectory(prefix="embedded-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def make(folder: Path) -> Iterator[Callable[[type[Server]], Server]]:
    """Builds servers on `folder` and erases them at the end."""
    made: list[Server] = []

    def build(kind: type[Server], data_dir: Path = folder, port: int = 0, seconds: float = 60.0) -> Server:
        made.append(kind(data_dir, port=port, start_seconds=seconds))
        return made[-1]

    yield build
    for server in made:
        server.erase()
