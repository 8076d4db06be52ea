"""Synthetic runs, written once a session: a sound one, and one that lost jobs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from notebooks.analysis.frames import Frames, load
from tests.notebooks import synthetic


@pytest.fixture(scope="session")
def sound_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write(tmp_path_factory.mktemp("runs") / "20260910T000000-synthetic-s7")


@pytest.fixture(scope="session")
def sound(sound_folder: Path) -> Frames:
    return load(sound_folder)


@pytest.fixture(scope="session")
def lossy(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    return load(synthetic.write(tmp_path_factory.mktemp("runs") / "20260910T000001-synthetic-s8", seed=8, lost=12))


@pytest.fixture
def folder(tmp_path: Path, sound_folder: Path) -> Path:
    """A copy that a test may damage."""
    copied: Path = shutil.copytree(sound_folder, tmp_path / "run")
    return copied
