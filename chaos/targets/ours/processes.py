"""Its processes: commands and environment. SCHEDULER_ variables are written here, from numbers, and nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from chaos.record.plan import Armed, Settings
from chaos.targets.target import Command, Start

BODIES, CONTROLS = "chaos.targets.ours.bodies", "chaos.controls.loader"
SETTINGS = (
    "lease_seconds",
    "max_attempts",
    "backoff_base_seconds",
    "backoff_factor",
    "grace_seconds",
    "max_backlog",
    "concurrency",
    "unhandled_seconds",
    "retention_seconds",
)
ACTIONS = {"kill": "kill", "pause": "stall", "reply_lost": "lose"}  # fault → what a process does to itself
RACKS = ("SCHEDULER_DATABASE_URL", "SCHEDULER_REDIS_URL", "SCHEDULER_PORT", "SCHEDULER_DATA_DIR")


def prepare(database_url: str) -> Command:
    """Bring a new database to the schema."""
    return Command(_arguments("migrate"), {"SCHEDULER_DATABASE_URL": database_url})


def command(start: Start) -> Command:
    """The API, or a worker."""
    jobs, variables = [], _variables(start.settings)
    if start.ledger is not None:
        jobs.append(BODIES)
        variables["CHAOS_LEDGER"] = str(start.ledger.absolute())
        if start.settings.rare_on not in {"", start.process}:
            variables["CHAOS_WITHOUT"] = "RARE"
    if control := start.settings.broken_build(start.process):
        jobs.append(CONTROLS)
        variables["CHAOS_CONTROL"] = control
    if start.armed is not None:
        spec = f"{start.armed.point}:{ACTIONS[start.armed.fault]}@{start.armed.nth}"
        variables["SCHEDULER_CRASH_POINTS"] = spec
    variables |= {
        "SCHEDULER_DATABASE_URL": start.database_url,
        "SCHEDULER_REDIS_URL": start.redis_url,
        "SCHEDULER_PORT": str(start.api_port),
        "SCHEDULER_JOBS": ",".join(jobs),
        "SCHEDULER_SAMPLES": "1",
        "SCHEDULER_WEBHOOK_HOSTS": "127.0.0.1",
    }
    return Command(_arguments(str(start.process.role)), variables | dict(start.variables))


def reply_lost(armed: Armed) -> str:
    """The line of its log."""
    return f"crash_point point={armed.point} action=lose"


def callers(environment: Mapping[str, str]) -> dict[str, str]:
    """The caller's own settings of the scheduler, without those that the rack decides."""
    return {name: text for name, text in environment.items() if name.startswith("SCHEDULER_") and name not in RACKS}


def _variables(settings: Settings) -> dict[str, str]:
    """Everything that checks rely on is said, not left to a default."""
    return {f"SCHEDULER_{name.upper()}": str(getattr(settings, name)) for name in SETTINGS}


def _arguments(subcommand: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "scheduler", subcommand)
