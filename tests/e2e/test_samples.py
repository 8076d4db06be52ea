"""The built-in job types in the hands of strangers: far ends that never end, addresses inside, headers, secrets."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from scheduler import SchedulerError, samples, settings
from scheduler.jobs.lifecycle import Status
from scheduler.testing import AttemptOutcome, run_inline
from tests.cluster import Cluster, eventually

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\n"
MOST = 64 << 20  # what a far end sends at most, so that a test that fails does not fill the machine


class FarEnd:
    """A server that answers in its own way, and keeps what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.heads: list[str] = []
        self.sent = 0
        self.over = False
        self.serving: set[asyncio.Task[None] | None] = set()
        self._answer = answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.current_task())
        try:
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            await self._answer(writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def repeat(self, writer: asyncio.StreamWriter, piece: bytes, pause: float = 0.0) -> None:
        """Until the other end hangs up."""
        while self.sent < MOST and not self.over and not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            self.sent += len(piece)
            await asyncio.sleep(pause)


@asynccontextmanager
async def far_end(
    answer: Callable[[FarEnd, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[tuple[FarEnd, str]]:
    async def bound(writer: asyncio.StreamWriter) -> None:
        await answer(end, writer)

    end = FarEnd(bound)
    server = await asyncio.start_server(end.serve, "127.0.0.1", 0)
    try:
        yield end, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        end.over = True
        await asyncio.gather(*filter(None, end.serving))


async def plainly(_: FarEnd, writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"Content-Length: 2\r\n\r\nok")
    await writer.drain()


def drip(head: bytes, piece: bytes, pause: float = 0.05) -> Callable[[FarEnd, asyncio.StreamWriter], Awaitable[None]]:
    async def answer(end: FarEnd, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await end.repeat(writer, piece, pause)

    return answer


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets variables of this process, for handlers that run in it."""

    def set_to(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"SCHEDULER_{name.upper()}", value)
        settings.load.cache_clear()

    yield set_to
    settings.load.cache_clear()


async def call(url: str, **more: Any) -> AttemptOutcome:
    async with asyncio.timeout(60):
        return await run_inline("WEBHOOK", {"url": url, "body": {"n": 1}, **more}, max_attempts=1)


# -- WEBHOOK: far ends


async def test_of_an_answer_nothing_but_its_head_is_read(configure: Any) -> None:
    configure(webhook_hosts="127.0.0.1")
    for head in (OK, OK + b"Content-Encoding: gzip\r\nContent-Length: 999999999\r\n"):
        async with far_end(drip(head + b"\r\n", b"\0" * 65_536, 0.0)) as (end, address):
            assert (await call(f"http://{address}")).result == {"status": 200}
            assert end.sent < 16 << 20, "what fits the sockets' buffers"
        assert "accept-encoding: identity\r\n" in end.heads[0].lower()
        assert f"Host: {address}\r\n" in end.heads[0]


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200", b"O"),
        (OK, b"X: y\r\n"),
        (OK + b"X: ", b"y"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b""),
    ],
)
async def test_a_far_end_that_drips_holds_its_slot_no_longer_than_one_deadline(
    head: bytes, piece: bytes, configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(webhook_hosts="127.0.0.1")
    monkeypatch.setattr(samples, "SECONDS", 1.0, raising=False)
    async with far_end(drip(head, piece)) as (end, address):
        outcome = await call(f"http://{address}")
    assert outcome.status is Status.FAILED
    assert re.search(r"127\.0\.0\.1 gave no answer within 1 s|RemoteProtocolError", outcome.error or ""), outcome
    assert len(end.heads) == 1


@pytest.mark.parametrize("piece", [b"HTTP/1.1 100 Continue\r\n\r\n" * 2_000, b"X: y\r\n" * 10_000, b"y" * 65_536])
async def test_a_head_that_never_ends_is_cut_off_before_it_costs_anything(piece: bytes, configure: Any) -> None:
    configure(webhook_hosts="127.0.0.1")
    async with far_end(drip(b"" if piece[:1] == b"H" else OK + b"X: ", piece, 0.0)) as (end, address):
        outcome = await call(f"http://{address}")
    assert outcome.status is Status.FAILED
    assert end.sent < 16 << 20
    assert "no answer within" not in (outcome.error or "")


@pytest.mark.parametrize("status", ["302 Found\r\nLocation: http://127.0.0.1:1/", "500 Oops", "404 No"])
async def test_an_answer_that_is_not_2xx_is_a_failure_and_no_redirect_is_followed(status: str, configure: Any) -> None:
    configure(webhook_hosts="127.0.0.1")
    async with far_end(drip(f"HTTP/1.1 {status}\r\n\r\n".encode(), b"")) as (_, address):
        outcome = await call(f"http://{address}")
    assert outcome.error == f"RuntimeError: 127.0.0.1 answered {status[:3]}"


# -- WEBHOOK: addresses

INSIDE = [
    *("127.0.0.1", "127.8.9.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1"),
    *("100.100.100.200", "192.0.0.192", "168.63.129.16", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1"),
    *("255.255.255.255", "192.0.2.1", "::", "::1", "fe80::1%eth0", "fec0::1", "fd00:ec2::254", "ff02::1", "ff0e::1"),
    *("::ffff:127.0.0.1", "::ffff:a00:1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::169.254.169.254"),
    *("64:ff9b:1::1", "2002:7f00:1::1", "2001:0:7f00:1::", "2001:db8::1", "3fff::1", "100::1", "5f00::1"),
]


@pytest.mark.parametrize("address", INSIDE)
def test_no_address_inside_is_public_however_it_is_wrapped(address: str) -> None:
    assert not samples.may_call(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert samples.may_call(address)


SPELLINGS = ["127.0.0.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "127.1", "[::ffff:127.0.0.1]",
             "0.0.0.0", "localhost", "user:secret@127.0.0.1", "LOCALHOST"]  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_loopback_is_refused_in_every_spelling_and_never_connected_to(spelling: str) -> None:
    async with far_end(plainly) as (end, address):
        outcome = await call(f"http://{spelling}:{address.partition(':')[2]}")
    assert (outcome.status, end.heads) == (Status.FAILED, [])
    assert re.search(r"Discard: .*SCHEDULER_WEBHOOK_HOSTS may allow it", outcome.error or ""), outcome
    assert "secret" not in (outcome.error or "")


@pytest.mark.parametrize(
    ("allowed", "host"),
    [("127.0.0.1", "localhost"), ("LocalHost", "localhost"), ("x,localhost", "LOCALHOST"), ("127.0.0.1", "2130706433")],
)
async def test_a_host_that_is_allowed_by_name_or_address_is_called(allowed: str, host: str, configure: Any) -> None:
    configure(webhook_hosts=allowed)
    async with far_end(plainly) as (end, address):
        outcome = await call(f"http://{host}:{address.partition(':')[2]}/a?b=c")
    assert outcome.result == {"status": 200}
    assert end.heads[0].startswith("POST /a?b=c HTTP/1.1\r\n")


async def test_the_address_that_was_looked_at_is_the_one_that_is_connected_to(
    configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server of a stranger answers the first question with an allowed address, later ones with another."""
    configure(webhook_hosts="127.0.0.1")
    asked: list[str] = []

    def rebinding(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        address = host if host[0].isdigit() else "127.0.0.1" if asked.count(host) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    async with far_end(plainly) as (end, address):
        outcome = await call(f"http://rebind.example:{address.partition(':')[2]}")
    assert (outcome.result, asked.count("rebind.example")) == ({"status": 200}, 1)
    assert "Host: rebind.example:" in end.heads[0]


@pytest.mark.parametrize(
    "url",
    [None, 7, "", "ftp://u:Secret@example.com", "http://", "//u:Secret@h", "u:Secret@h", "http://u:Secret/x@h/",
     "http://[::1:Secret"],
)  # fmt: skip
async def test_what_is_no_url_is_a_dead_letter_at_once_and_is_not_shown(url: object) -> None:
    outcome = await run_inline("WEBHOOK", {"url": url})
    assert outcome.status is Status.FAILED
    assert "payload.url must be a URL such as" in (outcome.error or "")
    assert "Secret" not in (outcome.error or "")


# -- EMAIL

BCC = base64.b64encode(b"s\r\nBcc: evil@x.y").decode()


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        ({"to": "a@example.com", "subject": "=?utf-8?q?s=0D=0ABcc:_evil@x.y?="}, "subject"),
        (
            {"to": "a@example.com", "subject": f"=?utf-8?b?{BCC}?="},
            "subject",
        ),
        ({"to": "a@example.com", "subject": "s\r\nBcc: evil@x.y"}, "subject"),
        ({"to": "a@example.com", "subject": "bell\x07"}, "subject"),
        ({"to": "a@example.com", "subject": "x" * 999}, "subject"),
        ({"to": "=?utf-8?q?x=0D=0ABcc:_evil@x.y?= <a@example.com>"}, "to"),
        ({"to": "a@example.com\nBcc: evil@x.y"}, "to"),
        ({"to": "a@example.com, b@example.com"}, "to"),
        ({"to": "all: a@example.com, b@example.com;"}, "to"),
        ({"to": ", ".join(f"a{n}@b.c" for n in range(1_000))}, "to"),
        ({"to": "nobody"}, "to"),
        ({"to": ""}, "to"),
        ({}, "to"),
        ({"to": ["a@example.com", "b@example.com"]}, "to"),
        ({"to": "a@example.com", "from": "ceo@bank.example"}, "from"),
    ],
)
async def test_a_mail_goes_to_one_address_from_our_sender_with_no_header_but_ours(
    payload: dict[str, Any], named: str
) -> None:
    outcome = await run_inline("EMAIL", payload)
    assert outcome.status is Status.FAILED
    assert (outcome.error or "").startswith(f"Discard: payload.{named} "), outcome


async def test_a_broken_smtp_url_is_not_shown(configure: Any) -> None:
    configure(smtp_url="smtp://u:Sec#ret@h")
    outcome = await run_inline("EMAIL", {"to": "a@example.com"})
    assert "SCHEDULER_SMTP_URL is no smtp" in (outcome.error or "")
    assert "Sec" not in (outcome.error or "")


# -- in a real worker


@pytest.mark.e2e
async def test_without_samples_their_types_are_unknown_and_the_answer_says_what_would_make_them_known(
    cluster: Cluster,
) -> None:
    cluster.settings["samples"] = False
    await cluster.api()
    await cluster.worker()
    async with cluster.client() as client:
        for type in ("FAIL", "FLAKY", "CRASH", "SLEEP", "BLOCK"):
            with pytest.raises(SchedulerError, match=f"422.*'{type}'.*SCHEDULER_SAMPLES=1"):
                await client.submit(type, {})
        for type in ("NOOP", "EMAIL", "WEBHOOK"):
            await client.submit(type, {"to": "a@example.com"})
    known = {name for (name,) in cluster.rows("SELECT name FROM scheduler.types")}
    assert known == {"NOOP", "EMAIL", "WEBHOOK"}
    await cluster.drained()


@pytest.mark.e2e
async def test_what_a_job_says_forges_no_line_of_the_log_and_a_webhooks_secrets_are_in_no_error(
    cluster: Cluster,
) -> None:
    fake = "2026-01-01T00:00:00.000Z ERROR   api forged"  # as a line of its own it would be taken for one of the API's
    await cluster.api()
    await cluster.worker(webhook_hosts="127.0.0.1")
    breaks = [
        "\n",
        "\r",
        "\r\n",
        "\x0b",
        "\x0c",
        "\x1c",
        "\x85",
        "\u2028",
        "\u2029",
        "\n\n",
        "\x1b[1G",
        "\u202e",
        "\u2066",
    ]
    async with cluster.client() as client, far_end(drip(b"HTTP/1.1 500 Oops\r\n\r\n", b"")) as (_, address):
        batch = [{"type": "FAIL", "payload": {"message": f"x{each}{fake}"}, "max_attempts": 1} for each in breaks]
        await client.submit_batch(batch)
        hook = {"url": f"http://user:Secret@{address}/Secret?token=Secret"}
        sent = await client.submit("WEBHOOK", hook, max_attempts=1)
        found = await client.get(sent["id"], wait=20)
        await eventually(lambda: cluster.unfinished() == 0, within=20)
        await eventually(lambda: cluster.log().count("job_failed") == len(breaks) + 1, within=20)
    assert found["error"] == "RuntimeError: 127.0.0.1 answered 500"
    assert "Secret" not in str(found["attempts"])
    assert "Secret" not in cluster.log()
    lines = re.split("[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", "".join(cluster.log().split("-- worker")[1]))
    own = re.compile(r"20\d\d-\d\d-\d\dT[\d:.]+Z \w+ +worker\[\d+\] |  \| |-|$")
    assert [line for line in lines if not own.match(line)] == []
    assert not set("\x1b\u202e\u2066") & set(cluster.log())
