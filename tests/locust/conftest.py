"""Real `locust` processes against a stand-in API; every child ends with the test that started it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BOUND_SECONDS = 60


@contextmanager
def child(*command: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process that is gone, whatever happens, when the block ends."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=BOUND_SECONDS)


@dataclass(frozen=True)
class Ended:
    """What a headless profile left behind."""

    exit_status: int
    output: str
    history: list[dict[str, Any]]

    def operations(self, f: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Invokes of `f` with their completions."""
        done = {line["op"]: line for line in self.history if line["type"] != "invoke"}
        return [(line, done[line["op"]]) for line in self.history if line["type"] == "invoke" and line["f"] == f]


@pytest.fixture
def stand_in() -> Iterator[Callable[..., str]]:
    """Starts a stand-in API with the arguments given; returns its address."""
    with ExitStack() as stack:

        def start(*arguments: str) -> str:
            process = stack.enter_context(child("tests/locust/standin.py", *arguments))
            assert process.stdout is not None
            return f"http://127.0.0.1:{process.stdout.readline().strip()}"

        yield start


@pytest.fixture
def headless(tmp_path: Path) -> Callable[..., Ended]:
    """Runs a profile to its end and reads the history it wrote."""

    def run(profile: str, host: str, *arguments: str, **env: str) -> Ended:
        history = tmp_path / "history.jsonl"
        history.unlink(missing_ok=True)
        options = ["--headless", "--only-summary", "--host", host, *arguments]
        command = ("-m", "locust", "-f", f"locustfiles/{profile}.py", *options)
        with child(*command, env={**env, "RUN_HISTORY": str(history)}) as process:
            output, _ = process.communicate(timeout=BOUND_SECONDS)
        lines = history.read_text().splitlines() if history.exists() else []
        return Ended(process.returncode, output, [json.loads(line) for line in lines])

    return run


def unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def free_port() -> int:
    return unused_port()
