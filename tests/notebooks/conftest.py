"""Synthetic runs, written once a session: a sound one, one that lost jobs, and one that hardly began."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from notebooks.analysis.frames import Frames, load
from tests.notebooks import synthetic

Line = dict[str, Any]


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


@pytest.fixture
def bare(tmp_path: Path) -> Callable[..., Path]:
    """A run folder with the history given and nothing else but a manifest; times in seconds."""

    def write(*lines: Line, effects: tuple[Line, ...] = (), finals: tuple[Line, ...] = ()) -> Path:
        manifest = {"run": "bare", "scenario": "bare", "seed": 1, "wall_origin": 0.0, "mono_origin_ns": 0}
        phases = [{"name": "steady", "start_ns": 0, "end_ns": 10_000_000_000}]
        (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "phases": phases}))
        history = [
            {"index": index, "error": None, **line, "time_ns": int(line["time_ns"] * 1e9)}
            for index, line in enumerate(lines)
        ]
        ledger = [{**line, "time_ns": int(line["time_ns"] * 1e9)} for line in effects]
        for name, records in (("history", history), ("effects", ledger), ("finals", finals)):
            path = tmp_path / f"{name}.jsonl"
            path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return tmp_path

    return write
