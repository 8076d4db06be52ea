"""A crew of real processes: who dies, hangs, sleeps or leaves children behind, and that in the end nobody is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from scheduler.embedded import Child, ChildFailed, Crew, Launch, until
from scheduler.embedded.crew import FIRST_WAIT, HEALTHY_SECONDS, LONGEST_WAIT

READY = "echo ready; while :; do sleep 0.05; done"
DEAF = f"trap '' TERM; {READY}"
OBEDIENT = f"trap 'echo bye; exit 7' TERM; {READY}"


@pytest.fixture
def crew() -> Iterator[Crew]:
    with Crew(0.3) as made:
        yield made


def shell(folder: Path, script: str, name: str = "child", *, order: int = 0) -> Launch:
    return Launch(name, ["/bin/sh", "-c", script], folder / f"{name}.log", order=order)


def start(crew: Crew, launch: Launch) -> Child:
    """Start it, and wait until it has said that it is ready."""
    child = crew.start(launch)
    crew.until(lambda: "ready" in said(child), 10, child, f"{child.name} was not ready")
    return child


def said(child: Child) -> str:
    assert child.launch.log is not None
    return child.launch.log.read_text()


def is_gone(pid: int) -> bool:
    """Reaped, or a zombie that its new parent has not reaped yet."""
    listing = ["ps", "-o", "state=", "-p", str(pid)]
    state = subprocess.run(listing, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    return not state or state.startswith("Z")


def test_a_child_that_dies_ends_a_wait_at_once_with_the_end_of_its_log(crew: Crew, tmp_path: Path) -> None:
    child = crew.start(shell(tmp_path, "echo no such device >&2; exit 3"))
    began = time.monotonic()
    with pytest.raises(ChildFailed, match=rf"child ended with 3; {tmp_path}/child\.log ends with\n +no such device"):
        crew.until(lambda: False, 60, child, "it did not serve")
    assert time.monotonic() - began < 30


def test_a_wait_that_lasts_too_long_says_for_what_and_shows_the_log(crew: Crew, tmp_path: Path) -> None:
    child = start(crew, shell(tmp_path, OBEDIENT))
    with pytest.raises(ChildFailed, match=r"it did not serve within 0\.1 s; .*child\.log ends with\n +ready"):
        crew.until(lambda: False, 0.1, child, "it did not serve")


def test_a_death_is_told_once_and_one_that_is_wanted_never(crew: Crew, tmp_path: Path) -> None:
    child, doomed = crew.start(shell(tmp_path, "exit 3")), crew.start(shell(tmp_path, "exit 4", "doomed"), doomed=True)
    assert until(lambda: not (child.alive or doomed.alive), 10)
    assert [(each.name, each.exit_code) for each in crew.dead()] == [("child", 3)]
    assert crew.dead() == []
    child.doomed = True
    crew.check()


def test_who_asks_finds_the_state_of_a_child_and_signals_that_one_alone(crew: Crew, tmp_path: Path) -> None:
    child, other = start(crew, shell(tmp_path, OBEDIENT)), start(crew, shell(tmp_path, OBEDIENT, "other"))
    child.signal(signal.SIGSTOP)
    assert until(lambda: child.state == "T", 10)
    assert other.state != "T"


def test_who_obeys_has_the_time_to_and_who_is_deaf_is_killed_and_named(crew: Crew, tmp_path: Path) -> None:
    obedient, deaf = start(crew, shell(tmp_path, OBEDIENT, "obedient")), start(crew, shell(tmp_path, DEAF, "deaf"))
    assert crew.end() == [deaf]
    assert (obedient.exit_code, deaf.exit_code) == (7, -signal.SIGKILL)
    assert said(obedient).endswith("bye\n")


def test_a_child_that_is_stopped_is_woken_to_obey(crew: Crew, tmp_path: Path) -> None:
    child = start(crew, shell(tmp_path, OBEDIENT))
    child.signal(signal.SIGSTOP)
    assert crew.end() == []
    assert child.exit_code == 7


def test_each_is_asked_by_the_signal_of_its_own(crew: Crew, tmp_path: Path) -> None:
    asked = f"trap '' TERM; trap 'exit 7' USR1; {READY}"
    first = start(crew, replace(shell(tmp_path, asked, "first"), stops_by=signal.SIGUSR1))
    second = start(crew, replace(shell(tmp_path, asked, "second"), stops_by=signal.SIGUSR1))
    assert first.stop(10)
    assert second.alive
    assert crew.end() == []
    assert (first.exit_code, second.exit_code) == (7, 7)


def test_a_higher_order_hears_nothing_before_the_lower_has_ended(crew: Crew, tmp_path: Path) -> None:
    slow = f"trap 'sleep 0.15; echo first >> {tmp_path}/ends; exit' TERM; echo ready; while :; do sleep 0.01; done"
    quick = f"trap 'echo second >> {tmp_path}/ends; exit' TERM; echo ready; while :; do sleep 0.01; done"
    start(crew, shell(tmp_path, quick, "quick", order=1))
    start(crew, shell(tmp_path, slow, "slow", order=0))
    assert crew.end() == []
    assert (tmp_path / "ends").read_text() == "first\nsecond\n"


@pytest.mark.parametrize("script", ["exit 7", DEAF, OBEDIENT])
def test_what_a_child_started_in_its_group_ends_with_it(crew: Crew, tmp_path: Path, script: str) -> None:
    """Whether the child dies by itself, is killed, or obeys and leaves it behind."""
    child = crew.start(
        shell(tmp_path, f"(trap '' TERM; echo ready; exec sleep 61) & echo $! > {tmp_path}/pid; {script}")
    )
    assert until(lambda: "ready" in said(child) and bool((tmp_path / "pid").read_text()), 10)
    left = int((tmp_path / "pid").read_text())
    assert script != "exit 7" or until(lambda: crew.dead() == [child], 10)
    assert is_gone(left) == (script == "exit 7")
    crew.end()
    assert until(lambda: is_gone(left), 10)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nobody_is_left_when_the_block_ends_by_an_exception(tmp_path: Path, error: type[BaseException]) -> None:
    crew = Crew(5)
    child = start(crew, shell(tmp_path, OBEDIENT))
    with pytest.raises(error), crew:
        raise error
    assert child.exit_code == 7


def test_a_second_ctrl_c_takes_the_time_that_is_left_and_leaves_nobody(tmp_path: Path) -> None:
    crew = Crew(60)
    deaf, later = start(crew, shell(tmp_path, DEAF, "deaf")), start(crew, shell(tmp_path, OBEDIENT, "later", order=1))
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            crew.end()
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert deaf.exit_code == -signal.SIGKILL
    assert later.exit_code is not None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a parent's death kill its children")
def test_a_child_dies_with_a_parent_that_is_killed_even_when_it_is_deaf_and_stopped(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from scheduler.embedded import Launch, Crew\n"
        f"child = Crew().start(Launch('child', ['/bin/sh', '-c', {DEAF!r}], Path({str(tmp_path / 'log')!r})))\n"
        "print(child.pid, flush=True); sys.stdin.readline(); child.signal(signal.SIGSTOP)\n"
        "print(child.state, flush=True); sys.stdin.readline()"
    )
    command, pipe = [sys.executable, "-c", script], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert until(lambda: (tmp_path / "log").read_text() == "ready\n", 10)
        parent.stdin.write("stop it\n")
        parent.stdin.flush()
        parent.stdout.readline()
        assert not is_gone(pid)
        parent.kill()
    assert until(lambda: is_gone(pid), 10)


def test_who_keeps_dying_is_started_again_ever_later_and_never_before_its_time(crew: Crew, tmp_path: Path) -> None:
    child = crew.start(shell(tmp_path, "echo started"))
    deaths: list[tuple[float, float]] = []
    while len(deaths) < 3:
        deaths += [(time.monotonic(), each.wait_seconds) for each in crew.tend()]
        time.sleep(0.01)
    assert [wait for _, wait in deaths] == pytest.approx([2 * FIRST_WAIT, 4 * FIRST_WAIT, 8 * FIRST_WAIT])
    for (died, wait), (again, _) in pairwise(deaths):
        assert again - died >= wait
    assert said(child) == "started\n" * 3


def test_the_wait_before_a_restart_has_a_limit_and_starts_over_once_the_child_was_healthy(
    crew: Crew, tmp_path: Path
) -> None:
    child = start(crew, shell(tmp_path, OBEDIENT))
    child.wait_seconds = LONGEST_WAIT * 0.9
    child.signal(signal.SIGKILL)
    assert until(lambda: crew.tend() == [child], 10)
    assert child.wait_seconds == LONGEST_WAIT
    child.start_at = 0.0
    crew.tend()
    assert child.alive
    child.started_at -= HEALTHY_SECONDS
    child.signal(signal.SIGKILL)
    assert until(lambda: crew.tend() == [child], 10)
    assert child.wait_seconds == FIRST_WAIT


def test_a_piped_child_is_written_to_and_read_from(crew: Crew) -> None:
    process = crew.start(Launch("cat", ["/bin/cat"], piped=True)).process
    assert process.communicate(b"a line\n", timeout=10)[0] == b"a line\n"


def test_what_cannot_be_started_is_an_error_of_the_system_and_no_member(crew: Crew, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        crew.start(Launch("child", ["/bin/true"], folder=tmp_path / "none"))
    assert crew.children == {}
