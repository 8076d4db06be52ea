"""Every broken build finds what it breaks, in a process that has loaded nothing of the experiment."""

from __future__ import annotations

import subprocess
import sys

import pytest

from chaos.controls.control import FAMILIES, every, find
from chaos.controls.patch import nothing, replace, rewrite
from chaos.errors import UsageError
from scheduler.storage.stream import Stream
from tests.cluster import ROOT

LOOK = """
import sys
import chaos.controls.loader
print(*(name for name in sys.modules if name.startswith("chaos.")))
"""


def loaded(address: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that is broken by the control of that address; it prints what it holds of the harness."""
    variables = {"CHAOS_CONTROL": address, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LOOK]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", every())
def test_a_control_finds_what_it_breaks_and_loads_its_own_family_only(name: str) -> None:
    done = loaded(find(name).address)
    assert done.returncode == 0, done.stderr
    own = [f"chaos.controls.{family}" for family in FAMILIES if f"chaos.controls.{family}" in done.stdout.split()]
    assert own == [find(name).apply.__module__]
    assert not any(each.startswith(("chaos.scenarios", "chaos.load", "chaos.rack")) for each in done.stdout.split())


def test_a_control_that_finds_nothing_to_break_says_so() -> None:
    with pytest.raises(UsageError, match="Stream has no reed"):
        replace(Stream, "reed", nothing)
    with pytest.raises(UsageError, match="the query 'claim' holds no 'SELECT nothing'"):
        rewrite("claim", ("SELECT nothing", ""))


def test_an_unknown_control_is_refused_in_the_harness_and_in_the_process() -> None:
    with pytest.raises(UsageError, match="did you mean 'no-fence'"):
        find("no-fens")
    for address in ("chaos.controls.settling:no-fens", "no-fence", "chaos.controls.retries:no-fence"):
        refused = loaded(address)
        assert refused.returncode != 0
        assert f"CHAOS_CONTROL={address!r} is no address such as" in refused.stderr
