"""Every fault by its name. All chance lies in the seeded schedule: toxicity is 1 and jitter 0."""

from __future__ import annotations

import signal
from collections.abc import Callable

from chaos.errors import UsageError
from chaos.faults.fault import Fault
from chaos.faults.garbage import garbage
from chaos.faults.links import both, brownout, link, torn_reply
from chaos.faults.processes import at_point, by_signal
from chaos.faults.stores import configure, demote, fail_over, flush, hold_key, step_clock
from chaos.faults.toxiproxy import Toxic
from chaos.record.plan import Planned

# name → what it does to an established connection, and at heal. Measured: tests/chaos/faults/test_faults.py.
FAULTS: dict[str, Callable[[Planned], Fault]] = {
    # silent; held data is delivered at heal and a request the client gave up on still executes
    "partition.hold": link("partition.hold", both("latency", latency=3_600_000, jitter=0)),
    # silent; data is gone and the connection closed at heal
    "partition.drop": link("partition.drop", both("timeout", timeout=0)),
    # the command executes, its reply never arrives
    "ack_lost": link("ack_lost", (Toxic("timeout", "downstream", {"timeout": 0}),)),
    # the command executes, the connection closes instead of a reply
    "ack_lost.close": link("ack_lost.close", (Toxic("limit_data", "downstream", {"bytes": 0}),)),
    # the command never executes, nothing is answered
    "send_lost": link("send_lost", (Toxic("timeout", "upstream", {"timeout": 0}),)),
    # the command executes, the first bytes of its reply arrive, then the connection closes
    "torn_reply": torn_reply,
    # connections are closed and new ones refused
    "refuse": link("refuse", ()),
    # the next data on a connection closes it
    "reset": link("reset", both("reset_peer", timeout=0)),
    # slow: `latency_ms` (200), `rate_kb`
    "brownout": brownout,
    "kill": by_signal("kill", signal.SIGKILL),
    "pause": by_signal("pause", signal.SIGSTOP),
    "term": by_signal("term", signal.SIGTERM),
    "flush": flush,
    # reads are answered, writes refused; connections stay as they are, then and at heal
    "demote": demote,
    # nothing happens to a connection; the `nth` kind of garbage stays until the queue itself clears it away
    "redis-garbage": garbage,
    # connections stay with the old server, which takes no writes; new ones reach the other; heal changes neither
    "failover": fail_over,
    # nothing happens to a connection; who submits under the key waits for it, until heal rolls the holder back
    "key_held": hold_key,
    # nothing happens to a connection; who connects from now on starts with the setting. Heal leaves it so
    "configure": configure,
    # nothing happens to a connection; leases run out at once, until they are renewed
    "clock": step_clock,
    # a command ran, its reply never arrived, at the crash point `point` of one process
    "reply_lost": at_point,
}


def make_fault(planned: Planned) -> Fault:
    """The fault that a schedule's line names. Raises UsageError with the nearest known name."""
    if planned.fault not in FAULTS:
        raise UsageError.unknown("fault", planned.fault, FAULTS, "chaos/faults/catalogue.py")
    return FAULTS[planned.fault](planned)
