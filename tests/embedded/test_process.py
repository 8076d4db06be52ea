"""One child process: whom it dies with, what reaches it; free ports and accounts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.embedded import free_port, launch, until
from scheduler.embedded.process import Account, runs_on


@pytest.mark.skipif(sys.platform != "linux", reason="needs the parent-death signal of Linux")
def test_a_child_gets_the_signal_when_its_parent_is_killed_but_not_when_the_starting_thread_ends(folder: Path) -> None:
    script = (
        "import sys, threading, time; from pathlib import Path; from scheduler.embedded import launch\n"
        "def start(): print(launch([sys.argv[2], '61'], log=Path(sys.argv[1])).pid, flush=True)\n"
        "thread = threading.Thread(target=start); thread.start(); thread.join(); sys.stdin.readline()"
    )
    arguments = [sys.executable, "-c", script, str(folder / "log"), str(sleep := Path("/bin/sleep").resolve())]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert until(lambda: runs_on(pid, sleep), 20)
        assert not until(lambda: not runs_on(pid, sleep), 0.3)
        owner.kill()
    assert until(lambda: not runs_on(pid, sleep), 20)


def test_a_child_is_out_of_reach_of_the_terminal(folder: Path) -> None:
    process = launch(["/bin/sleep", "61"], log=folder / "log")
    try:
        assert os.getsid(process.pid) == process.pid != os.getsid(0)
    finally:
        process.kill()
        process.wait(5)


def test_free_ports_are_outside_the_range_of_clients() -> None:
    assert all(20_000 <= free_port() < 32_000 for _ in range(20))


def test_an_account_reaches_a_folder_only_if_every_folder_above_lets_it(folder: Path) -> None:
    stranger = Account(54_321, 54_321)
    inner = folder / "a" / "b"
    inner.mkdir(parents=True)
    assert stranger.reaches(inner)
    assert stranger.reaches(inner / "missing")
    (folder / "a").chmod(0o700)
    assert not stranger.reaches(inner)
