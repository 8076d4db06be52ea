"""Valkey and PostgreSQL for a host that has none running, and any other process that is to end with this one.

The servers are programs from PATH, else from wheels; they listen on loopback only, want a password, keep every
durability switch on and their data, which no other user may read, between starts. They never run as root. All die with
the process that started them, however that one ends. One owner a data folder: a second start is refused.
Start-up blocks, with a deadline: call it before the event loop, or in a thread.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from scheduler.embedded.crew import Child, Crew, Launch
from scheduler.embedded.postgres import Postgres
from scheduler.embedded.process import ChildFailed, ServerFailed, Untrusted, free_port, is_free, launch, until
from scheduler.embedded.program import Program
from scheduler.embedded.redis import Redis
from scheduler.embedded.server import Server

__all__ = [
    "Child",
    "ChildFailed",
    "Crew",
    "Launch",
    "Postgres",
    "Program",
    "Redis",
    "Server",
    "ServerFailed",
    "Stores",
    "Untrusted",
    "embedded",
    "free_port",
    "is_free",
    "launch",
    "until",
]


@dataclass(frozen=True, slots=True)
class Stores:
    """Both servers, started; `stores.postgres.url` and `stores.redis.client_url` are what SCHEDULER_*_URL wants."""

    postgres: Postgres
    redis: Redis


@contextmanager
def embedded(data_dir: Path, *, keep: bool = True) -> Iterator[Stores]:
    """Both servers while the block runs, data in `data_dir`; `keep=False` removes the data at the end.

    Raises Untrusted where another user may have put something in place of the data, else ServerFailed: no program
    found, the folder in use by another process, or a start that failed.
    """
    stores = Stores(Postgres(data_dir), Redis(data_dir))
    with ExitStack() as stack:
        for server in (stores.postgres, stores.redis):
            server.start()
            stack.callback(server.stop if keep else server.erase)
        yield stores
