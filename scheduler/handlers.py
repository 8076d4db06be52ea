"""What a module of handlers is written with: `@job`. The function stays callable, and gets a `submit` of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar, Unpack, overload

from scheduler.client import Later, Now, submit
from scheduler.jobs.registry import Handler, handlers
from scheduler.jobs.retry import Backoff
from scheduler.submission.submission import Options

P = ParamSpec("P")
R = TypeVar("R")


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
        is_builtin = plain.__module__ == "scheduler.samples"
        handlers.add(Handler(type, plain, max_attempts, backoff, timeout, is_builtin))
        return Job(type, plain)

    return register
