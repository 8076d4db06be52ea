"""The seam between the harness and a queue under test: what *start, submit, observe, look, wipe and stop* mean for it.

A target is data and pure functions; the harness owns every process, connection, clock and file. To add a queue, make a
package beside `ours` whose bodies write the effect ledger, describe the queue there as one `Target`, and pass it to the
rack. It has to keep its record in PostgreSQL and its index in Redis, as the rack offers no more; one without an HTTP
door brings its own, as the process `api`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Any, Literal

import httpx

from chaos.record.aim import Aim
from chaos.record.history import Final
from chaos.record.plan import Armed, Settings


@dataclass(frozen=True, slots=True)
class Start:
    """One start of one process: who, on which stores, how set, and how it is watched and broken."""

    process: Aim
    database_url: str
    redis_url: str
    api_port: int
    settings: Settings
    ledger: Path | None = None  # the file that job bodies write down what they do in; None: they do not
    armed: Armed | None = None
    variables: Mapping[str, str] = field(default_factory=dict)  # environment of the caller's, the last word


@dataclass(frozen=True, slots=True)
class Command:
    """What to execute, with which variables beside those that every process needs."""

    arguments: tuple[str, ...]
    variables: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request to the queue's door; `content` is JSON, empty for a GET."""

    path: str
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a submit came to: `ok` accepted, `fail` certainly not, `info` nobody knows.

    `value` is what the history keeps of an ok, with the job's `id`; `again`: asking later may help.
    """

    type: Literal["ok", "fail", "info"]
    value: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    again: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """What is read in the stores, past the queue: SQL with the rows it yields, and keys of Redis."""

    counts: str  # one row: jobs that are unfinished, jobs that run, workers that live
    unfinished: str  # one row: jobs without a final status
    failed: str  # one row: jobs whose attempts are spent
    finished: str  # (id, status, attempt) of each job that became final in the last ten seconds
    span: str  # one row: when the first job was started and the last one ended, in epoch seconds
    ids: str  # one column: the id of every job
    stream: str
    group: str  # the consumer group whose pending entries count
    retry: str  # a sorted set
    letters: str  # a stream whose entries carry the id of a dead job
    letter_id: bytes  # in which field
    age_leases: str  # makes every lease %(seconds)s older
    garbage: Mapping[str, Sequence[tuple[str, ...]]]  # what others could leave in Redis: name -> commands of Redis
    hold_key: str  # in a transaction that stays open: submits a job under the idempotency key %(key)s
    total: str  # one row: all jobs
    fill: str  # puts %(jobs)s jobs into an empty table, an hour old: PENDING and unknown to Redis, or COMPLETED


@dataclass(frozen=True, slots=True)
class Target:
    """A queue under test. Wiping is left to the rack: Redis emptied, a new database that `prepare` once made ready."""

    name: str
    # start
    prepare: Callable[[str], Command]  # run once on a new database, which is named by its URL
    command: Callable[[Start], Command]
    is_ready: Callable[[httpx.Client, int], bool]  # whether the door serves and that many workers are at work
    # submit
    submit: Callable[[str, dict[str, Any], str | None], Request]  # type, payload, idempotency key
    submit_batch: Callable[[Sequence[tuple[str, dict[str, Any]]]], Request]  # types and payloads: all or nothing
    accepted: Callable[[int, Any], list[str]]  # ids of a batch, in order; ValueError: not accepted
    answer: Callable[[int, Any], Answer]  # to a submit: HTTP status and JSON body
    # observe
    find: Callable[[str], Request]  # job id
    cancel: Callable[[str], Request]  # job id; `answer` says what came of it
    final: Callable[[bytes], Final]  # the body that answers `find`
    reply_lost: Callable[[Armed], str]  # what a process logs once a reply has been lost at its armed point
    # look
    look: Look
    # stop
    stops_by: Signals = SIGTERM
    stop_seconds: float = 15.0  # to obey; then it is killed
    gives_up_with: int | None = None  # exit code of a process that ends itself, so that others take over
