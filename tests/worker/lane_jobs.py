"""Handlers that some workers have and others lack, loaded by SCHEDULER_JOBS=worker.lane_jobs."""

from __future__ import annotations

import asyncio
from typing import Any

from scheduler import JobContext, job


@job("REST")
async def rest(ctx: JobContext, payload: dict[str, Any]) -> None:
    await asyncio.sleep(float(payload["seconds"]))
