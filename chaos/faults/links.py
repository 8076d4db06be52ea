"""What can go wrong on one link between a role and a store: silence, loss, refusal, slowness.

Which toxics make up which named fault (`partition.drop`, …) stands in `catalogue`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chaos.faults.fault import Fault, World
from chaos.faults.toxiproxy import Stream, Toxic
from chaos.record.aim import Aim
from chaos.record.plan import Planned

BOTH: tuple[Stream, ...] = ("upstream", "downstream")


@dataclass(frozen=True, slots=True)
class LinkFault:
    """Toxics on one link between a role and a store, or a listener that refuses (`toxics` empty)."""

    name: str
    target: Aim
    toxics: tuple[Toxic, ...] = ()

    def await_moment(self, world: World) -> None:
        """Any moment will do."""

    def inject(self, world: World) -> dict[str, Any]:
        """Poison the link, or close it."""
        for toxic in self.toxics:
            world.toxiproxy.add_toxic(self.target, toxic)
        if not self.toxics:
            world.toxiproxy.patch(self.target, enabled=False)
        return {}

    def heal(self, world: World) -> dict[str, Any]:
        """Take the poison out, or open it again; twice is no error."""
        for toxic in self.toxics:
            world.toxiproxy.remove_toxic(self.target, toxic.label)
        if not self.toxics:
            world.toxiproxy.patch(self.target, enabled=True)
        return {}


def both(kind: str, **attributes: int) -> tuple[Toxic, ...]:
    """A toxic of that type in each direction."""
    return tuple(Toxic(kind, stream, attributes) for stream in BOTH)


def link(name: str, toxics: tuple[Toxic, ...]) -> Callable[[Planned], Fault]:
    """Makes the fault of that name out of a line of a schedule."""
    return lambda planned: LinkFault(name, planned.target, toxics)


def brownout(planned: Planned) -> Fault:
    """Slow replies by `latency_ms` (200), and at most `rate_kb` a second."""
    latency = int(planned.arguments.get("latency_ms", 200))
    rate = planned.arguments.get("rate_kb")
    toxics: tuple[Toxic, ...] = (Toxic("latency", "downstream", {"latency": latency, "jitter": 0}),)
    if rate is not None:
        toxics += (Toxic("bandwidth", "downstream", {"rate": int(rate)}),)
    return LinkFault("brownout", planned.target, toxics)


def torn_reply(planned: Planned) -> Fault:
    """Connections close after `bytes` (10) of replies."""
    size = int(planned.arguments.get("bytes", 10))
    return LinkFault("torn_reply", planned.target, (Toxic("limit_data", "downstream", {"bytes": size}),))
