"""The other client: a process of its own that asks for /healthz all along, and tells what each answer took.

For each it prints when it asked, how long it waited, and how much processor time the API's process used meanwhile. The
smaller of the two is for how long the API was busy with others: on a machine that is busy itself, waiting takes longer,
working does not.
"""

from __future__ import annotations

import http.client
import sys
import time
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]

PAUSE_SECONDS = 0.004


class Look(NamedTuple):
    """One request for /healthz, in seconds and bytes: memory is that of the API when it was answered."""

    at: float
    waited: float
    worked: float
    memory: int

    @property
    def held(self) -> float:
        """For how long the API kept this client waiting by work of its own."""
        return min(self.waited, self.worked)


def watch(url: str, pid: int) -> None:
    """Look until standard input ends."""
    address, api = urlsplit(url).netloc, psutil.Process(pid)
    connection = http.client.HTTPConnection(address, timeout=60)
    while True:
        worked, at = _worked(api), time.monotonic()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        waited = time.monotonic() - at
        print(at, waited, _worked(api) - worked, api.memory_info().rss, flush=True)  # noqa: T201  (to who started it)
        time.sleep(PAUSE_SECONDS)


def _worked(api: psutil.Process) -> float:
    times = api.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    watch(sys.argv[1], int(sys.argv[2]))
