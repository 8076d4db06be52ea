"""A model of the protocol: every order of its steps, with faults, for one or two jobs and two workers.

What the stores, the API and the workers do is written down here a second time, in steps small enough to be explored to
the last interleaving; only the table of transitions is the product's own. See *The model* in docs/protocol.md.
"""

from chaos.model.explore import Bounds, Result, explore
from chaos.model.protocol import Protocol
from chaos.model.state import Faults
from chaos.model.variants import BROKEN, DEEP, HARMLESS, HEALTHY, Case, Explored, report

__all__ = [
    "BROKEN",
    "DEEP",
    "HARMLESS",
    "HEALTHY",
    "Bounds",
    "Case",
    "Explored",
    "Faults",
    "Protocol",
    "Result",
    "explore",
    "report",
]
