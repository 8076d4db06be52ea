"""What the endpoints use, and the loops that must run for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.api.metrics import Gauges
from scheduler.api.types import Types
from scheduler.api.waiters import Waiters
from scheduler.jobs.registry import Registry
from scheduler.service import Service
from scheduler.settings import Settings
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from scheduler.submission.backlog import Backlog
from scheduler.submission.intake import Intake
from scheduler.submission.publisher import Publisher


@dataclass(slots=True)
class Parts:
    """What the endpoints reach through `parts(request)`."""

    store: Store
    stream: Stream
    types: Types
    intake: Intake
    waiters: Waiters
    gauges: Gauges
    services: Sequence[Service]


def build_parts(settings: Settings, store: Store, stream: Stream, registry: Registry) -> Parts:
    """All of them, for one API process."""
    backlog = Backlog(store, settings.max_backlog)
    publisher = Publisher(stream)
    intake = Intake(store, publisher, backlog)
    types = Types(store, registry)
    waiters = Waiters(store)
    return Parts(
        store,
        stream,
        types,
        intake,
        waiters,
        Gauges(store, stream),
        (*intake.lanes, publisher, backlog, types, waiters),
    )
