"""Which function handles which type, and the type's defaults. A user's handler may replace a built-in one, no other."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from scheduler.errors import ConfigurationError
from scheduler.jobs.retry import Backoff


@dataclass(frozen=True, slots=True)
class Handler:
    """A function, the type it handles, and the defaults of the type (None: those of the settings).

    The function takes (ctx, payload); a plain one runs in a thread. Raises ConfigurationError for what cannot work.
    """

    type: str
    function: Callable[..., Any]
    max_attempts: int | None = None
    backoff: Backoff | None = None
    timeout_seconds: float | None = None
    is_builtin: bool = False
    is_async: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_async", inspect.iscoroutinefunction(self.function))
        if not self.type or len(self.type) > 200 or not self.type.isprintable():
            raise ConfigurationError(f"job type {self.type!r} must be 1 to 200 printable characters")
        if inspect.isgeneratorfunction(self.function) or inspect.isasyncgenfunction(self.function):
            raise ConfigurationError(f"{self} is a generator: called, it would do nothing; return instead of yielding")
        try:
            inspect.signature(self.function).bind("ctx", "payload")
        except TypeError as error:
            raise ConfigurationError(f"{self} must take (ctx, payload): {error}") from error
        except ValueError:
            return  # a function written in C does not tell

    def __str__(self) -> str:
        return f"{name_of(self.function)}, the handler of type {self.type!r},"


class Registry:
    """Type -> handler."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def add(self, handler: Handler) -> None:
        """Raises ConfigurationError for a second handler of one type."""
        known = self._handlers.get(handler.type)
        if known and handler.is_builtin and not known.is_builtin:
            return
        if known and not known.is_builtin and known.function is not handler.function:
            both = f"{name_of(known.function)} and {name_of(handler.function)}"
            raise ConfigurationError(f"type {handler.type!r} has two handlers, {both}; rename one")
        self._handlers[handler.type] = handler

    def withdraw(self, types: Iterable[str]) -> None:
        """Forget the built-in handlers of these types."""
        for type in types:
            if (known := self._handlers.get(type)) and known.is_builtin:
                del self._handlers[type]

    def get(self, type: str) -> Handler | None:
        """The handler of the type, None when there is none."""
        return self._handlers.get(type)

    def __iter__(self) -> Iterator[str]:
        return iter(self._handlers)

    def __contains__(self, type: str) -> bool:
        return type in self._handlers


def name_of(function: Callable[..., Any]) -> str:
    """Module and name, for messages."""
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"


handlers = Registry()
