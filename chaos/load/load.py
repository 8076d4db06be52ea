"""What submits jobs, and where to: the seam between an experiment and our own arrivals or Locust."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from chaos.record.recorder import Recorder
from chaos.record.runs import Folder


@dataclass(frozen=True, slots=True)
class Target:
    """Where a load sends its jobs and writes what happened."""

    api_url: str
    sink_url: str
    recorder: Recorder
    folder: Folder
    seed: int


class Load(Protocol):
    """Something that submits jobs: our own arrivals, or Locust."""

    @property
    def jobs(self) -> int: ...

    async def run(self, target: Target, stop: asyncio.Event) -> None:
        """Submit everything; once `stop` is set give up on what is not accepted. Cancelled, leave nothing behind."""
