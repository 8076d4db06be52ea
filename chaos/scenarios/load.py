"""What becomes of jobs under load alone: the control without faults, and a burst while a worker dies."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from typing import Any

from chaos.judge.promise import promise
from chaos.load.workload import Workload
from chaos.record.aim import worker
from chaos.record.history import SECOND, Run
from chaos.record.plan import Guards, Planned
from chaos.record.verdict import Finding, broken
from chaos.scenarios.scenario import Scenario, nothing, usual


def _one_kill(rng: random.Random, _: float) -> list[Planned]:
    return [Planned(rng.uniform(0, 0.5), "kill", worker(1), 7.5, {"when_busy": True})]


@promise("exactly-once", source='DESIGN "body count … predicted from its payload"')
def exactly_once(run: Run) -> Finding:
    """Where nothing is broken, a body runs as often as its payload foretells: once, and once for each failure."""
    foretold = {job: _foretold(submit.value, run.settings.max_attempts) for job, submit in run.accepted.items()}
    ran = {job: len(run.executions.get(job, ())) for job in foretold}
    wrong = [{"id": job, "ran": ran[job], "foretold": n} for job, n in foretold.items() if ran[job] != n]
    return broken(
        wrong,
        f"{len(wrong)} of {len(ran)} bodies did not run as often as their payloads foretell",
        f"{sum(ran.values())} runs of {len(ran)} bodies, as many as their payloads foretell",
    )


@promise("even-share", source='DESIGN "claims shared by lag and live workers"')
def even_share(run: Run) -> Finding:
    """Of a crowd of jobs each idle worker runs its share, give or take a half: a busy machine wakes some late."""
    crowds: dict[int, Counter[int]] = defaultdict(Counter)
    first: dict[int, str] = {}
    for job, submit in run.accepted.items():
        if runs := run.executions.get(job):
            second = submit.value.get("intended_ns", submit.time_ns) // SECOND
            crowds[second][runs[0].pid] += 1
            first.setdefault(second, job)
    shares = {second: sorted(crowd.values()) for second, crowd in crowds.items()}
    uneven = [
        {"id": first[second], "crowd": sum(share), "ran": share}
        for second, share in shares.items()
        if not _is_even(share, run.settings.workers)
    ]
    return broken(
        uneven,
        f"{len(uneven)} of {len(shares)} crowds were not shared evenly",
        f"{len(shares)} crowds were shared by {run.settings.workers} workers: {'; '.join(map(str, shares.values()))}",
        shares=list(shares.values()),
    )


def _is_even(share: list[int], workers: int) -> bool:
    even = sum(share) / workers
    return len(share) == workers and 0.5 * even <= min(share) and max(share) <= 1.5 * even


def _foretold(submit: dict[str, Any], most: int) -> int:
    """How many attempts the submitted job takes, of at most so many."""
    match submit["type"]:
        case "FAIL":
            return most
        case "FLAKY" | "RAISE" | "RAISE-PLAIN" | "OVERTIME" | "OVERTIME-PLAIN":
            return min(most, 1 + int(submit["payload"]["failures"]))
        case _:
            return 1


SCENARIOS = (
    Scenario(
        name="calm",
        claim="without any fault every job runs exactly once; what this run shows is the harness's own noise",
        faults=nothing,
        settings=usual(duration=10.0, jobs=300),
        guards=Guards(faults=0, overlap=False),
        promises=(exactly_once,),
    ),
    Scenario(
        name="burst",
        claim="2,000 jobs at once are all carried out though a worker dies in the middle",
        faults=_one_kill,
        settings=usual(duration=10.0, jobs=2_000, steady_seconds=1.0),
        load=lambda settings: Workload(settings, seconds=1.0, sleep_seconds=(0.1, 0.5)),
        guards=Guards(faults=1, redelivery=True),
    ),
    Scenario(
        name="shared",
        claim="a crowd of jobs is shared by all idle workers, though any one of them could hold it all",
        faults=nothing,
        settings=usual(duration=12.0, jobs=400, workers=4, concurrency=100),
        load=lambda settings: Workload(settings, mix={"SLEEP": 1}, sleep_seconds=(1.0, 1.0), bursts=4, together=True),
        guards=Guards(faults=0, overlap=False),
        promises=(even_share,),
    ),
)
