"""What a fault is aimed at: a process, a role, a store, or the link of a role to a store. Parsed here, nowhere else."""

from __future__ import annotations

import re
from typing import Self

from chaos.errors import UsageError

ROLES, STORES = ("api", "worker"), ("redis", "postgres")
_FORM = re.compile(r"(redis|postgres)|(api|worker)(?:-(redis|postgres)|-[1-9]\d*)?")


class Aim(str):
    """A text that is taken apart: `api`, `worker-1`, `worker` (one of them), `redis`, `worker-redis` (the link).

    Raises UsageError for a text that names nothing of the kind. In a record it is the plain text.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if not _FORM.fullmatch(text):
            example = f"{ROLES[0]}, worker-1, {STORES[0]} or worker-{STORES[0]}"
            raise UsageError(f"no fault can be aimed at {text!r}; name a process, a store or a link, such as {example}")
        return super().__new__(cls, text)

    @property
    def role(self) -> str | None:
        """`api` or `worker`; None for a store itself."""
        return self._parts[1]

    @property
    def store(self) -> str | None:
        """`redis` or `postgres`, the server itself or where the link leads; None for a process."""
        return self._parts[0] or self._parts[2]

    @property
    def _parts(self) -> tuple[str | None, ...]:
        found = _FORM.fullmatch(self)
        assert found is not None
        return found.groups()


API, SOME_WORKER, REDIS, POSTGRES = Aim("api"), Aim("worker"), Aim("redis"), Aim("postgres")


def worker(number: int) -> Aim:
    """The n-th worker process, from 1."""
    return Aim(f"worker-{number}")


def link(role: str, store: str) -> Aim:
    """What lies between the processes of a role and a store; the name of its proxy."""
    return Aim(f"{role}-{store}")


LINKS = tuple(link(role, store) for store in STORES for role in ROLES)
