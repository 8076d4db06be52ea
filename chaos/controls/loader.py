"""Breaks the process that imports it: SCHEDULER_JOBS=chaos.controls.loader, in those that are to be broken only.

CHAOS_CONTROL is the address of the control, `module:name`. That family alone is imported, so that a worker does not
load what only an API has.
"""

from __future__ import annotations

import os
from importlib import import_module

from chaos.controls.control import controls_in
from chaos.errors import UsageError


def load(address: str) -> None:
    """Break this process. Raises UsageError when there is no such control, or nothing that it could break."""
    family, _, name = address.partition(":")
    found = {each.name: each for each in controls_in(import_module(family))} if family and name else {}
    if name not in found:
        raise UsageError(f"CHAOS_CONTROL={address!r} is no address such as {__package__}.settling:no-fence")
    found[name].apply()


load(os.environ["CHAOS_CONTROL"])
