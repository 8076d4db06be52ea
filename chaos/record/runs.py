"""The folder of a run: its fixed file names, how it is made, how it is read back. Never judges."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from chaos.errors import RunUnreadable, UsageError
from chaos.record.history import Effect, Final, Run, Sample, Stores
from chaos.record.plan import Manifest
from chaos.record.recorder import merge_histories, read_records, write_records
from chaos.record.verdict import Judgement

RUNS = Path("runs")
PACKAGES = {
    "scheduler": "compact-job-scheduler",
    "redis_py": "redis",
    "psycopg": "psycopg",
    "fastapi": "fastapi",
    "locust": "locust",
    "toxiproxy_python": "toxiproxy-python",
}
Shape = TypeVar("Shape")


@dataclass(frozen=True, slots=True)
class Folder:
    """Where everything about one run lies."""

    path: Path

    @property
    def manifest(self) -> Path:
        """How it was made."""
        return self.path / "manifest.json"

    @property
    def history(self) -> Path:
        """What was asked and answered."""
        return self.path / "history.jsonl"

    @property
    def effects(self) -> Path:
        """What job bodies did."""
        return self.path / "effects.jsonl"

    @property
    def finals(self) -> Path:
        """What each job came to."""
        return self.path / "finals.jsonl"

    @property
    def samples(self) -> Path:
        """The stores over time."""
        return self.path / "samples.jsonl"

    @property
    def stores(self) -> Path:
        """Redis after the drain."""
        return self.path / "stores.json"

    @property
    def verdict(self) -> Path:
        """What it was judged."""
        return self.path / "verdict.json"

    @property
    def logs(self) -> Path:
        """One file a process."""
        return self.path / "logs"

    def write(self, path: Path, value: msgspec.Struct) -> None:
        """Write a JSON file whole, indented for human readers."""
        draft = path.with_suffix(".draft")
        encoded = msgspec.json.encode(value, enc_hook=str)  # an Aim is its text
        draft.write_bytes(msgspec.json.format(encoded, indent=2) + b"\n")
        draft.replace(path)

    def settle_history(self) -> None:
        """Put the history, to which several processes appended, in order of time with rising indices."""
        write_records(self.history, merge_histories([self.history]))


def create(scenario: str, seed: int, runs: Path = RUNS) -> Folder:
    """A fresh folder that `latest` points to from now on; payloads and logs in it are for its owner alone."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    name = f"{stamp}-{scenario}-s{seed}"
    for attempt in range(1, 100):
        path = runs / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            path.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            continue
        (path / "logs").mkdir()
        _point_latest(runs, path.name)
        return Folder(path)
    raise RunUnreadable(f"{runs / name} exists a hundred times over; clean {runs}")


def _point_latest(runs: Path, name: str) -> None:
    draft = runs / f".latest-{os.getpid()}"
    draft.unlink(missing_ok=True)
    draft.symlink_to(name)
    draft.replace(runs / "latest")


def load_run(path: Path | str) -> Run:
    """Everything recorded in the folder. Raises RunUnreadable when it is none, or is damaged."""
    folder = Folder(Path(path).resolve())
    if not folder.manifest.is_file():
        raise RunUnreadable(f"{path} holds no manifest.json; pass the folder of a run, such as runs/latest")
    return Run(
        manifest=_read(folder.manifest, Manifest),
        history=merge_histories([folder.history]),
        effects=read_records(folder.effects, Effect),
        finals=read_records(folder.finals, Final),
        samples=read_records(folder.samples, Sample),
        stores=_read(folder.stores, Stores) if folder.stores.is_file() else Stores(),
        path=folder.path,
    )


def load_manifest(path: Path | str) -> Manifest:
    """How a run was made. Raises RunUnreadable."""
    return _read(Folder(Path(path).resolve()).manifest, Manifest)


def load_judgement(path: Path | str) -> Judgement:
    """The verdict as it was written at the end of the run."""
    return _read(Folder(Path(path).resolve()).verdict, Judgement)


def _read(path: Path, shape: type[Shape]) -> Shape:
    try:
        return msgspec.json.decode(path.read_bytes(), type=shape, dec_hook=_made)
    except (OSError, msgspec.DecodeError, UsageError) as error:
        raise RunUnreadable(f"{path}: {error}; the run is incomplete or of another version") from error


def _made(shape: type[Any], text: Any) -> Any:
    return shape(text)  # an Aim


def stamp() -> str:
    """Now, as RFC 3339 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock_origin() -> tuple[float, int]:
    """One instant on the wall clock (epoch seconds) and on the monotonic clock (nanoseconds)."""
    before = time.monotonic_ns()
    wall = time.time()
    return wall, (before + time.monotonic_ns()) // 2


def machine() -> dict[str, Any]:
    """What the run was made on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": os.cpu_count(),
        "memory_bytes": memory,
        "platform": platform.platform(),
        "python": sys.version.split()[0],
    }


def versions() -> dict[str, str]:
    """Versions of the packages that shape a run; those of the servers are added once they answer."""
    found = {"python": sys.version.split()[0]}
    for name, package in PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            found[name] = "unreleased"
    return found


def commit() -> str | None:
    """The commit of the source tree, with `-dirty` when files differ from it; None outside a checkout."""
    root = Path(__file__).parent.parent.parent
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None
