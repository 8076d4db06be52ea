"""The command line: `scheduler …` or `python -m scheduler …`."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Awaitable, Callable, Iterable
from hashlib import sha256
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Column, Table

from scheduler import __version__, settings
from scheduler.api.access.keys import Role
from scheduler.client import Client
from scheduler.errors import ConfigurationError, SchedulerError
from scheduler.facts import log
from scheduler.settings import Settings
from scheduler.storage.store import Store

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
dlq = typer.Typer(no_args_is_help=True, help="Look after dead letters.")
keys = typer.Typer(no_args_is_help=True, help="Say who may do what, in the database of SCHEDULER_DATABASE_URL.")
app.add_typer(dlq, name="dlq")
app.add_typer(keys, name="keys")
out = Console()

Url = Annotated[str | None, typer.Option(help="Address of the API; default http://127.0.0.1:$SCHEDULER_PORT")]
Ids = Annotated[list[str] | None, typer.Argument(help="Job ids; none: by the options")]
OfType = Annotated[str | None, typer.Option("--type", help="Only of this type")]
WithError = Annotated[str | None, typer.Option("--error", help="Only with these words in the error")]
OlderThan = Annotated[float | None, typer.Option("--older-than", help="Only dead for this many seconds")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say which")]


@app.command()
def up(workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes")] = 2) -> None:
    """API and workers in one terminal, with embedded stores when no URL is set. Ctrl-C stops all of it."""
    from scheduler.supervisor import run_up

    raise typer.Exit(run_up(_configured("up"), workers))


@app.command()
def api() -> None:
    """Serve HTTP."""
    _serve("api", "api")


@app.command()
def worker() -> None:
    """Run jobs."""
    _serve("worker", f"worker[{os.getpid()}]")


@app.command()
def migrate() -> None:
    """Bring the database's schema up to date (api and worker do so themselves)."""
    from scheduler import runtime

    applied = asyncio.run(runtime.run_migrate(_configured("migrate")))
    out.print(f"applied: {', '.join(applied)}" if applied else "the schema is up to date")


@app.command()
def submit(
    type: Annotated[str, typer.Argument(help="Job type, such as NOOP")],
    payload: Annotated[str, typer.Argument(help="A JSON object")] = "{}",
    delay: Annotated[float | None, typer.Option(help="Seconds from now")] = None,
    max_attempts: Annotated[int | None, typer.Option(min=1)] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key")] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for a final status (up to 60)")] = 0.0,
    url: Url = None,
) -> None:
    """Submit one job and print it as JSON."""
    try:
        body = json.loads(payload)
    except ValueError as error:
        raise ConfigurationError(f"PAYLOAD {payload[:60]!r} is not JSON: {error}") from error

    async def talk(client: Client) -> dict[str, Any]:
        answer = await client.submit(type, body, delay_seconds=delay, max_attempts=max_attempts, idempotency_key=key)
        if wait:
            Console(stderr=True).print(f"submitted {answer['id']}", soft_wrap=True)
            return await client.get(answer["id"], wait=wait)
        return answer

    out.print_json(data=_talk(url, talk))


@app.command()
def status(
    job_id: Annotated[str | None, typer.Argument(help="A job; none: the whole system")] = None, url: Url = None
) -> None:
    """Show one job, or backlog, dead letters and workers."""
    if job_id:
        out.print_json(data=_talk(url, lambda client: client.get(job_id)))
        return
    stats = _talk(url, Client.stats)
    workers = stats.pop("workers")
    figures = [(name, "out of reach" if value is None else value) for name, value in stats.items()]
    _show("scheduler", ("figure", "value"), figures)
    counted = ("completed", "retried", "failed", "lease_lost")
    rows = [(w["name"], round(w["age_seconds"]), *(w["counters"].get(name, 0) for name in counted)) for w in workers]
    _show(f"{len(workers)} live workers", ("worker", "age (s)", *(name.replace("_", " ") for name in counted)), rows)


@dlq.command("list")
def dlq_list(type: OfType = None, limit: Annotated[int, typer.Option(min=1, max=1000)] = 50, url: Url = None) -> None:
    """Show dead letters, newest first."""
    page = _talk(url, lambda client: client.dead_letters(limit=limit, **_given(type=type)))
    rows = [
        (job["id"], job["type"], f"{job['attempt']}/{job['max_attempts']}", job["finished_at"], job["error"])
        for job in page["jobs"]
    ]
    _show("dead letters", (Column("id", no_wrap=True), "type", "attempts", "finished", "error"), rows)
    if page["next_cursor"]:
        out.print(f"more than {limit}; see --limit")


@dlq.command("redrive")
def dlq_redrive(
    ids: Ids = None,
    type: OfType = None,
    error: WithError = None,
    older_than: OlderThan = None,
    rate: Annotated[float | None, typer.Option(help="Jobs per second")] = None,
    dry_run: DryRun = False,
    url: Url = None,
) -> None:
    """Send dead letters back, with a fresh count of attempts."""
    chosen = _given(ids=ids or None, type=type, error=error, older_than_seconds=older_than, dry_run=dry_run, rate=rate)
    _report("would send back" if dry_run else "sent back", _talk(url, lambda client: client.redrive(**chosen)))


@dlq.command("purge")
def dlq_purge(
    ids: Ids = None,
    type: OfType = None,
    error: WithError = None,
    older_than: OlderThan = None,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
    url: Url = None,
) -> None:
    """Delete dead letters and their jobs for good."""
    if not (yes or dry_run):
        typer.confirm("Delete these dead letters for good?", abort=True)
    chosen = _given(ids=ids or None, type=type, error=error, older_than_seconds=older_than, dry_run=dry_run)
    _report("would delete" if dry_run else "deleted", _talk(url, lambda client: client.purge(**chosen)))


@keys.command("add")
def keys_add(
    name: Annotated[str, typer.Argument(help="Whose key it is, in letters, digits, `.`, `_` and `-`")],
    role: Annotated[Role, typer.Option(help="What it may do")],
) -> None:
    """Make a key and print it, this once: only its hash is kept. It opens every API within about a second."""
    key = secrets.token_hex(32)
    if not _on_record(lambda store: store.add_key(name, role, sha256(key.encode()).digest())):
        raise ConfigurationError(f"no key was added: {name!r} is in use or no name; `scheduler keys list` shows all")
    out.print(key, soft_wrap=True)


@keys.command("list")
def keys_list() -> None:
    """Show the keys in PostgreSQL; those of SCHEDULER_API_KEYS are beside them."""
    rows = [(name, role, made.isoformat(timespec="seconds")) for name, role, _, made in _on_record(Store.keys)]
    _show("keys", ("name", "role", "made at"), rows)


@keys.command("revoke")
def keys_revoke(name: Annotated[str, typer.Argument(help="As `keys list` shows it")]) -> None:
    """End a key: within about a second it opens nothing."""
    if not _on_record(lambda store: store.revoke_key(name)):
        raise ConfigurationError(f"there is no key {name!r}; `scheduler keys list` shows all")
    out.print(f"revoked {name}")


def _on_record(work: Callable[[Store], Awaitable[Any]]) -> Any:
    from scheduler import runtime

    return asyncio.run(runtime.on_record(settings.load(), work))


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _show(title: str, columns: Iterable[Column | str], rows: Iterable[Iterable[object]]) -> None:
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    out.print(table)


def _report(verb: str, ids: list[str]) -> None:
    out.print(*ids, f"{verb} {len(ids)} job{'' if len(ids) == 1 else 's'}", sep="\n")


def _talk(url: str | None, call: Any) -> Any:
    config = settings.load()
    address = url or config.own_url

    async def conversation() -> Any:
        async with Client(address, key=config.own_key) as client:
            return await call(client)

    return asyncio.run(conversation())


def _configured(process: str) -> Settings:
    config = settings.load()
    log.configure(process, config.log_level, config.log_format)
    return config


def _serve(role: Literal["api", "worker"], process: str) -> None:
    import uvloop

    from scheduler import runtime

    config = _configured(process)
    runtime.load_jobs(config)
    if config.crash_points:  # only a process that is to be broken on purpose loads what breaks it
        from scheduler.testing import points

        points.arm(config.crash_points, role)
    uvloop.run({"api": runtime.run_api, "worker": runtime.run_worker}[role](config))


def _version(wanted: bool) -> None:
    if wanted:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    """A job scheduler on PostgreSQL and Redis Streams."""


def main() -> None:
    """Exit codes: 0 done, 1 refused or failed, 2 wrong usage or configuration."""
    try:
        app()
    except* SchedulerError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        sys.stderr.write(f"scheduler: {error}\n")
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)


if __name__ == "__main__":
    main()
