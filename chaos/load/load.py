"""What submits jobs, and where to: the seam between an experiment and our own arrivals or Locust."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from chaos.record.recorder import Recorder
from chaos.record.runs import Folder
from chaos.targets.target import Target


@dataclass(frozen=True, slots=True)
class Destination:
    """The queue that a load sends its jobs to, and where it writes what happened."""

    target: Target
    api_url: str
    sink_url: str
    recorder: Recorder
    folder: Folder
    seed: int


class Load(Protocol):
    """Something that submits jobs: our own arrivals, or Locust."""

    @property
    def jobs(self) -> int:
        """How many it submits."""

    async def run(self, to: Destination, stop: asyncio.Event) -> None:
        """Submit everything; once `stop` is set give up on what is not accepted. Cancelled, leave nothing behind."""
