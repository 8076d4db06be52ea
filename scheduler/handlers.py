"""What a module of handlers is written with: `@job`, and `@resource` for what a worker opens once for all of them."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Generic, ParamSpec, TypeVar, Unpack, overload

from scheduler.client import Later, Now, submit
from scheduler.errors import ConfigurationError, InvalidJob, SchedulerError
from scheduler.facts.facts import RESOURCE_FAILED, tell
from scheduler.jobs.registry import Handler, handlers
from scheduler.jobs.retry import Backoff, RetryPolicy
from scheduler.submission.submission import Options, Submission

P = ParamSpec("P")
R = TypeVar("R")
RESOURCE_SECONDS = 30.0  # to open one, and to close one

_resources: dict[str, Callable[[], AbstractAsyncContextManager[Any]]] = {}


class Job(Generic[P, R]):
    """A handler: called, it is the function that was decorated; `submit` hands in a job of its type."""

    __name__: str

    def __init__(self, type: str, function: Callable[P, R]) -> None:
        functools.update_wrapper(self, function)
        self.type, self.function = type, function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    @overload
    def submit(self, to: Now, payload: dict[str, Any], **options: Unpack[Options]) -> str: ...
    @overload
    def submit(self, to: Later, payload: dict[str, Any], **options: Unpack[Options]) -> Coroutine[Any, Any, str]: ...
    def submit(self, to: Any, payload: dict[str, Any], **options: Unpack[Options]) -> Any:
        """Submit a job of this type through a connection or a client, as `scheduler.submit` does. Returns its id."""
        return submit(to, self.type, payload, **options)


def job(
    type: str, *, max_attempts: int | None = None, backoff: Backoff | None = None, timeout: float | None = None
) -> Callable[[Callable[P, R]], Job[P, R]]:
    """Register the decorated `async def` or plain `def` (run in a thread) as the handler of `type`.

    The options are the defaults of the type: what a submission says itself wins, and where neither speaks the settings
    do. `backoff`: seconds before the first retry, a RetryPolicy, or a function from the number of the failed attempt to
    seconds; `timeout`: seconds an attempt may take. Raises ConfigurationError for what cannot work.
    """

    def register(function: Callable[P, R]) -> Job[P, R]:
        plain = function.function if isinstance(function, Job) else function
        try:
            Submission.of(type, {}, max_attempts=max_attempts, timeout_seconds=timeout)
            if not callable(backoff):
                RetryPolicy().delay_of(backoff, attempt=1)
        except (InvalidJob, AttributeError, ValueError) as error:
            given = f"max_attempts={max_attempts!r}, backoff={backoff!r}, timeout={timeout!r}"
            raise ConfigurationError(f"job type {type!r} with {given}: {error}") from error
        is_builtin = plain.__module__ == "scheduler.samples"
        handlers.add(Handler(type, plain, max_attempts, backoff, timeout, is_builtin))
        return Job(type, plain)

    return register


def resource(make: Callable[[], AsyncIterator[R]]) -> Callable[[], AbstractAsyncContextManager[R]]:
    """Have every worker open what this async generator function yields, as `ctx.resources[its name]`.

    What stands before its `yield` runs before the first job is read, what stands behind it after the last one has
    ended. Resources are opened in the order of their registration, and closed in the reverse one.
    """
    if not inspect.isasyncgenfunction(make):
        raise ConfigurationError(f"resource {make.__name__!r} must be an `async def` that yields once")
    _resources[make.__name__] = opened = asynccontextmanager(make)
    return opened


@asynccontextmanager
async def open_resources() -> AsyncIterator[dict[str, Any]]:
    """All resources, open while the block runs. Raises SchedulerError for one that fails, or is not open in time."""
    found: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        for name, make in _resources.items():
            manager = make()
            found[name] = await _bounded(name, "opened", manager.__aenter__)
            stack.push_async_callback(_bounded, name, "closed", manager.__aexit__, None, None, None)
        yield found


async def _bounded(name: str, verb: str, step: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    try:
        async with asyncio.timeout(RESOURCE_SECONDS):
            return await step(*arguments)
    except Exception as error:
        tell(RESOURCE_FAILED, resource=name, trace=error)
        why = str(error) or f"not within {RESOURCE_SECONDS:g} s"
        raise SchedulerError(f"resource {name!r} could not be {verb}: {type(error).__name__}: {why}") from error
