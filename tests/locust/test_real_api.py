"""The load profiles against the real thing: `scheduler up` with embedded stores, everything by HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.locust.conftest import ROOT, Ended, unused_port

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def api() -> Iterator[str]:
    """The address of a scheduler of our own; it is asked to stop, then made to."""
    port = unused_port()
    address = f"http://127.0.0.1:{port}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SCHEDULER_")}
    with tempfile.TemporaryDirectory() as data_dir:
        Path(data_dir).chmod(0o755)  # under root PostgreSQL runs as another user, who has to reach it
        env = {**inherited, "SCHEDULER_DATA_DIR": data_dir, "SCHEDULER_PORT": str(port)}
        log = Path(data_dir, "up.log")
        with log.open("w") as output:
            up = subprocess.Popen(
                [sys.executable, "-m", "scheduler", "up", "--workers", "2"],
                cwd=ROOT,
                env=env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait_ready(address, up, log)
            yield address
        finally:
            _stop(up)


@pytest.mark.parametrize("profile", ["burst", "steady"])
def test_every_job_of_a_profile_ends_as_its_type_promises(
    profile: str, api: str, headless: Callable[..., Ended]
) -> None:
    users = ("-u", "80", "-r", "80", "-t", "50s") if profile == "burst" else ()
    ended = headless(profile, api, *users, BURST_JOBS="80", STEADY_RATE="40", STEADY_SECONDS="2")
    assert ended.exit_status == 0, ended.output
    assert ", 0 not final" in ended.output
    submits = ended.operations("submit")
    assert len(submits) >= 50
    for begun, done in submits:
        job = _get(f"{api}/jobs/{done['value']['id']}")
        assert job["type"] == begun["value"]["type"]
        assert job["status"] == ("FAILED" if job["type"] == "FAIL" else "COMPLETED")


def _wait_ready(address: str, up: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and up.poll() is None:
        try:
            _get(f"{address}/readyz")
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"the scheduler is not ready: {log.read_text()[-2000:]}")


def _stop(up: subprocess.Popen[bytes]) -> None:
    up.send_signal(signal.SIGINT)
    try:
        up.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(up.pid, signal.SIGKILL)
        up.wait(timeout=10)


def _get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310  (our own address)
        answer: dict[str, Any] = json.loads(response.read())
    return answer
