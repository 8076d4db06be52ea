"""How the harness runs Python programs: this checkout first on their path, and little of the caller's environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGTERM, Signals

from scheduler.embedded import Launch

ROOT = Path(__file__).parent.parent.parent
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")


def python_path() -> str:
    """PYTHONPATH for a child: this checkout, then what the caller has there."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def program(words: Sequence[str], variables: Mapping[str, str], log: Path, stops_by: Signals = SIGTERM) -> Launch:
    """A program named for its log, with these variables and few others.

    It is killed with us, even while SIGSTOP keeps it deaf.
    """
    kept = {key: os.environ[key] for key in KEPT if key in os.environ}
    return Launch(log.stem, words, log, {**kept, "PYTHONPATH": python_path(), **variables}, stops_by=stops_by)


def python(module: list[str], variables: Mapping[str, str], log: Path) -> Launch:
    """The same for `python -m module …`."""
    return program([sys.executable, "-m", *module], variables, log)
