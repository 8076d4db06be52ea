"""A stand-in for the API that answers as told: it accepts, refuses, cuts or never finishes jobs on purpose.

It lives only to show the load generator what a healthy API cannot be made to do on cue. It is a process of
its own, speaks just enough HTTP, prints its port and ends when its standard input closes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import time
import uuid
from typing import Any

SECONDS = {"NOOP": 0.0, "WEBHOOK": 0.02, "FLAKY": 0.2, "FAIL": 0.3}


class Jobs:
    """The accepted jobs, by id and by idempotency key."""

    def __init__(self, never: set[str]) -> None:
        self.by_id: dict[str, dict[str, Any]] = {}
        self.by_key: dict[str, str] = {}
        self.never = never

    def accept(self, body: dict[str, Any]) -> tuple[int, str]:
        key = body["idempotency_key"]
        if key in self.by_key:
            return 200, self.by_key[key]
        job_id = str(uuid.uuid4())
        self.by_key[key] = job_id
        seconds = body["payload"].get("seconds", SECONDS.get(body["type"], 0.0))
        final_at = math.inf if body["type"] in self.never else time.monotonic() + seconds
        self.by_id[job_id] = {"type": body["type"], "final_at": final_at}
        return 202, job_id

    def seconds_left(self, job_id: str) -> float:
        final_at: float = self.by_id[job_id]["final_at"]
        return final_at - time.monotonic()

    def status(self, job_id: str) -> str:
        if self.seconds_left(job_id) > 0:
            return "PROCESSING"
        return "FAILED" if self.by_id[job_id]["type"] == "FAIL" else "COMPLETED"


class StandIn:
    def __init__(self, jobs: Jobs, trouble: list[str]) -> None:
        self.jobs, self.trouble = jobs, trouble

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (line := await reader.readline()) and await self._answer(line.decode(), reader, writer):
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, line: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        method, target, _ = line.split()
        headers = await self._headers(reader)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if method == "POST":
            return self._submit(json.loads(body), writer)
        if target == "/jobs":
            return reply(writer, 200, {"count": len(self.jobs.by_id)})
        job_id, _, query = target.removeprefix("/jobs/").partition("?wait=")
        await asyncio.sleep(max(0.0, min(float(query), self.jobs.seconds_left(job_id))))
        return reply(writer, 200, {"id": job_id, "status": self.jobs.status(job_id)})

    async def _headers(self, reader: asyncio.StreamReader) -> dict[str, str]:
        headers = {}
        while (line := (await reader.readline()).decode().strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return headers

    def _submit(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        match self.trouble.pop(0) if self.trouble else "":
            case "cut":
                return False
            case "accept-then-cut":
                self.jobs.accept(body)
                return False
            case "503" | "429" as told:
                return reply(writer, int(told), {"title": "busy"}, "Retry-After: 0.1\r\n")
            case "422":
                return reply(writer, 422, {"title": "no such type"})
        code, job_id = self.jobs.accept(body)
        return reply(writer, code, {"id": job_id, "status": "PENDING"})


def reply(writer: asyncio.StreamWriter, code: int, body: dict[str, Any], headers: str = "") -> bool:
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 {code} X\r\nContent-Type: application/json\r\n{headers}"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return True


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--never", default="", help="types that never become final")
    parser.add_argument("--trouble", default="", help="what the first submits meet, in order")
    options = parser.parse_args()
    jobs = Jobs(set(filter(None, options.never.split(","))))
    stand_in = StandIn(jobs, list(filter(None, options.trouble.split(","))))
    server = await asyncio.start_server(stand_in.serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201  (how the test learns the port)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
