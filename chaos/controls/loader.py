"""Breaks the process that imports it: SCHEDULER_JOBS=chaos.controls.loader, in those that are to be broken only.

CHAOS_CONTROL names the control. Its family alone is imported, so that a worker does not load what only an API has.
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path

from chaos.controls.control import FAMILIES, controls_in
from chaos.errors import UsageError


def family_of(name: str) -> str:
    """The file whose text defines the control. Raises UsageError when none does."""
    defines = re.compile(rf'\(\s*"{re.escape(name)}",')
    for family in FAMILIES:
        if defines.search((Path(__file__).parent / f"{family}.py").read_text()):
            return family
    raise UsageError(f"CHAOS_CONTROL={name!r} names no control; see `chaos controls --list`")


def load(name: str) -> None:
    """Break this process. Raises UsageError when there is no such control, or nothing that it could break."""
    family = import_module(f"chaos.controls.{family_of(name)}")
    next(each for each in controls_in(family) if each.name == name).apply()


load(os.environ["CHAOS_CONTROL"])
